"""Learners and the loop that runs any of them. This room is handed objects: it never sees a model class or a data set."""
