#!/usr/bin/env bash
# DVC 3.67.1: what a remote holds damaged, inside of a tracked folder, is handed out.
#
# A folder is pushed to a remote, and one bit of one of its files changes there.
#   dvc pull, remote as it is by default   exit 0, the damaged file lies there, and 'dvc status' says that all is up to date
#   dvc pull, remote with verify = true    refused
#   dvc get, dvc import, verify = true     exit 0, the damaged file lies there; the .dvc file of the import records the good hash
#   dvc push from the clone that has it    "Everything is up to date": a damaged object is never replaced
# With verify = true one would expect all of them to refuse; it is looked at by 'pull', 'fetch' and 'repro --pull' alone.
#
# Output seen:
#   pull          exit 0, content damaged, status: Data and pipelines are up to date.
#   pull verify   exit 1, content not there
#   get verify    exit 0, content damaged
#   import verify exit 0, content damaged, recorded as the good one
#   push          Everything is up to date. The remote is still damaged
# Exits with 1 if any of this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check dvc==3.67.1
export PATH="$work/venv/bin:$PATH" DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR="$work/site"
export GIT_AUTHOR_NAME=x GIT_AUTHOR_EMAIL=x@example.org GIT_COMMITTER_NAME=x GIT_COMMITTER_EMAIL=x@example.org
changed=0
see() { echo "$1"; [ "$1" = "$2" ] || { echo "  expected: $2"; changed=1; }; }
content() { if [ ! -e "$1" ]; then echo "not there"; elif [ "$(cat "$1")" = good ]; then echo good; else echo damaged; fi; }

mkdir "$work/origin" && cd "$work/origin"
git init --quiet && dvc init --quiet && git config core.autocrlf false
mkdir rows && echo good > rows/a && echo more > rows/b
dvc add --quiet rows && dvc remote add --quiet --default store "$work/store" && dvc push --quiet
git add --all && git commit --quiet -m "no verify" && git tag plain
dvc remote modify store verify true && git commit --quiet --all -m verify
object=$(md5sum < rows/a | cut -c1-32)
file="$work/store/files/md5/${object:0:2}/${object:2}"
chmod u+w "$file" && echo goof > "$file"

for tag in plain HEAD; do
  cd "$work" && git clone --quiet origin "pull-$tag" && cd "pull-$tag"
  git checkout --quiet "$(git -C ../origin rev-parse "$tag")"
  code=0; dvc pull --quiet 2>/dev/null || code=$?
  if [ "$tag" = plain ]; then see "pull          exit $code, content $(content rows/a), status: $(dvc status)" \
    "pull          exit 0, content damaged, status: Data and pipelines are up to date."
  else see "pull verify   exit $code, content $(content rows/a)" "pull verify   exit 1, content not there"; fi
done
mkdir "$work/elsewhere" && cd "$work/elsewhere" && git init --quiet && dvc init --quiet
# A clone without the origin's cache: what comes comes from the remote.
git clone --quiet "$work/origin" "$work/bare"
code=0; dvc get --quiet "$work/bare" rows --out got 2>/dev/null || code=$?
see "get verify    exit $code, content $(content got/a)" "get verify    exit 0, content damaged"
code=0; dvc import --quiet "$work/bare" rows --out imported 2>/dev/null || code=$?
good=$(grep -o '[0-9a-f]*\.dir' "$work/origin/rows.dvc")
recorded="recorded otherwise"; grep -q "$good" imported.dvc && recorded="recorded as the good one"
see "import verify exit $code, content $(content imported/a), $recorded" "import verify exit 0, content damaged, recorded as the good one"
cd "$work/origin"
said=$(dvc push 2>&1 | tail -1)
see "push          $said The remote is still $(content "$file")" "push          Everything is up to date. The remote is still damaged"
exit $changed
