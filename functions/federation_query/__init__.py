"""Questions of other servers about users and rooms of this one."""
