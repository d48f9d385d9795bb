"""`python -m admitd` is `admit daemon run`: the command line knows the options."""

from admit_cli.main import admitd

if __name__ == "__main__":
    admitd()
