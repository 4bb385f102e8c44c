"""Trained models at work: scoring a split, evaluating a run, predicting boxes on new videos."""
