"""From predictions to the rows and the average of one set, kept on disk as they are made."""
