"""What a bulk run reads: which items there are and where each lies, and how it is read; a module a kind of input."""
