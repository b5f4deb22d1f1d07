"""Sub-commands of `edgeclf`, one module each: options, calls of the floors below, output.

A module is imported when its command runs, or its own help is asked for. So that this takes no time either, it imports
typer, the standard library and light modules of the toolkit at its top; numpy, OpenCV, ONNX Runtime, TensorFlow and the
floors below are imported inside the functions.
"""

# Module and function have the name of the command; the text is the first paragraph of its help, which a test compares. In
# the order of `edgeclf --help`: from a folder of images to a device.
COMMANDS: dict[str, str] = {
    "doctor": (
        "Say why a classifier does not learn, or will not hold up: data, split, run, model; ends with 4 on a problem."
    ),
    "train": "Train a classifier; the best epoch on validation images is kept, test images only report.",
    "evaluate": "Measure accuracy, per-class precision and recall, confusion and calibration error on labelled images.",
    "compare": (
        "Compare two classifiers on the same images: accuracy with the interval of the difference, classes, images"
        " that changed."
    ),
    "export": "Write one .onnx file, verified against the original on images it was not made with; nothing if it differs.",
    "verify": "Compare a model file with its own record, its run, or another file, on this machine; exit code 4 if it differs.",
    "infer": "Classify images, folders, videos or a camera; records to stdout, everything else to stderr.",
    "bench": "Measure latency percentiles and throughput, split into preprocessing, inference and postprocessing.",
    "info": "Say what a model file is: labels, input, precision, how it was trained, quantized and verified.",
    "demo": "Train, export to int8, verify, classify and time on real photographs, in one go and without a network.",
}
