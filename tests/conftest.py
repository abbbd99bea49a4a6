"""Its being here puts this folder on sys.path, so that tests in every subfolder can import `processes`."""
