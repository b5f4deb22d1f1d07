"""Image formats that OpenCV does not read, or not as they are meant: header and pixels."""
