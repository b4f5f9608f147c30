"""Who may use a server, and with which role: the file of users, and when a server may be reached without one."""

from overread.access.roles import Person, Role
from overread.access.users import User, UsersFile

__all__ = ["Person", "Role", "User", "UsersFile"]
