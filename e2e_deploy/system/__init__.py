"""Files, folders, processes and text of the system, made safe once for every room."""
