"""Child processes that do the work while the window goes on."""
