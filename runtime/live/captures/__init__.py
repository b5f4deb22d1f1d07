"""Frame sources of a camera: devices and streams opened by OpenCV, MJPEG over HTTP, video files at their own pace."""
