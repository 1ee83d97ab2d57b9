"""One file a verb, loaded when the verb is used."""
