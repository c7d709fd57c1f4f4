#!/usr/bin/env bash
# DVC 3.67.1: `dvc data status TARGET` says nothing about a target that is a .dvc file or the name of a stage.
#
# Its help says: "targets  Limit command scope to these tracked files/directories, .dvc files and stage names." Given the path of
# the tracked file, the changed file is reported. Given own.csv.dvc, or the stage that makes made.txt, the same command prints
# "No changes." and, with --json, {}: exit code 0, as if nothing had changed. `dvc status own.csv.dvc` reports the change.
# A script that asks "may I replace this file, does DVC have it?" this way loses data.
#
# Seen (dvc 3.67.1, Python 3.11):
#   dvc data status own.csv            {"uncommitted": {"modified": ["own.csv"]}}
#   dvc data status own.csv.dvc        {}
#   dvc data status made.txt           {"uncommitted": {"modified": ["made.txt"]}}
#   dvc data status make               {}
#   dvc status own.csv.dvc             {"own.csv.dvc": [{"changed outs": {"own.csv": "modified"}}]}
#
# Prints what it sees; exit code 1 if that is something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check dvc==3.67.1
PATH="$folder/venv/bin:$PATH"
mkdir "$folder/repository"
cd "$folder/repository"
git init --quiet
git config user.name finding
git config user.email finding@example.org
dvc init --quiet
echo old > own.csv
dvc add --quiet own.csv
dvc stage add --quiet --run --name make --outs made.txt 'echo old > made.txt'
git add --all
git commit --quiet --message first
echo new > own.csv
rm made.txt
echo new > made.txt

status() { dvc data status --json "$@"; }
expect() { # what it is, what it should be for this finding, what was run
    echo "$3   ->   $1"
    [ "$1" = "$2" ] || { echo "this has changed: expected $2"; exit 1; }
}
expect "$(status own.csv)" '{"uncommitted": {"modified": ["own.csv"]}}' "dvc data status own.csv"
expect "$(status own.csv.dvc)" '{}' "dvc data status own.csv.dvc"
expect "$(status made.txt)" '{"uncommitted": {"modified": ["made.txt"]}}' "dvc data status made.txt"
expect "$(status make)" '{}' "dvc data status make"
expect "$(dvc status --json own.csv.dvc)" '{"own.csv.dvc": [{"changed outs": {"own.csv": "modified"}}]}' "dvc status own.csv.dvc"
