"""The command line: argparse, thin, quick to start.

Only the module of the command that is called is imported (:data:`bayplan.cli.commands.COMMANDS`); heavy libraries are
imported where they are used. Every command returns an exit code: 0, 1 for errors, 2 for changes where that was asked for,
64 for a wrong command line.
"""
