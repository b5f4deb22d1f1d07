"""Gathering of facts: reads images, run folders and models; judges nothing."""
