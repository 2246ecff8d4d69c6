"""Facts → lines and JSON. Pure: nothing is written here."""
