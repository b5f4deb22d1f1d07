"""Diagnosis of a data set or a training run: facts are gathered, checks judge them, findings are reported."""
