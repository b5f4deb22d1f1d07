import pytest


@pytest.fixture(scope="session", autouse=True)
def keras():
    """Keras, with TensorFlow started as edgeclf starts it."""
    from edgeclf.export.keras_backend import import_tensorflow

    import_tensorflow()
    import keras

    return keras
