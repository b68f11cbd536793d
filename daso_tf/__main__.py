"""`python -m daso_tf` is the console command `daso-tf`."""

from daso_tf.commands import cli

if __name__ == "__main__":
    cli.main()
