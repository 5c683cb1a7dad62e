"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """Bad input, said in one sentence: what was given, what was expected, what to do.

    The command line prints the message alone, without a traceback, and exits with 2.
    """


class NoRoom(UserError):
    """There is no room on a disk; what else would be written fails as well."""


class Transient(UserError):
    """What hinders may pass: the same command may do when it is given again.

    The command line exits with 1, at which launchers start a run again.
    """
