"""Read models: tables that are made from the log, and can be made anew from it."""
