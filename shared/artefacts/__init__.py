"""Files that outlive a process: written aside, checked, then renamed into place."""
