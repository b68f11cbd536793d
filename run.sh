#!/usr/bin/env bash
# ./run.sh                           trains, exports and tries out the digits demo
# ./run.sh flags/NAME.cfg [flags]    trains any other configuration
# ./run.sh workers N flags/NAME.cfg  the same with N worker processes on this machine
# ./run.sh test [pytest arguments]   checks style, types and imports, and runs the test suite
# ./run.sh test-addons [arguments]   runs it with TensorFlow 2.15 and TensorFlow Addons
# ./run.sh docs                      builds the documentation into docs/_build/html
# ./run.sh notebooks                 executes examples/*.ipynb
# ./run.sh wheel                     builds wheel and sdist into dist/ and tests them elsewhere
#
# The first call makes .venv in this folder and installs daso_tf into it, in the versions that
# requirements/newest.txt lists. test-addons has its own .venv-addons and requirements/addons.txt.
set -euo pipefail
cd "$(dirname "$0")"

# Where this is set, as in some containers, Python does not keep what it compiles. Each of the many
# processes of the tests would compile TensorFlow again, in three times the time that loading takes.
unset PYTHONDONTWRITEBYTECODE

fail() {
  echo "run.sh: $*" >&2
  exit 1
}

# install FOLDER VERSIONS EXTRAS PYTHON: makes FOLDER a virtual environment with daso_tf in it.
install() {
  local folder=$1 versions=requirements/$2.txt extras=$3 python=$4
  if command -v nvidia-smi >/dev/null; then extras=cuda,$extras; fi
  # One line per set of extras, written last: an installation that was interrupted is repeated.
  local installed=$folder/installed state
  state=$(cat setup.py "$versions" daso_tf/__init__.py | cksum)
  if grep -qsxF "$extras $state" "$installed"; then return; fi

  echo "Installing daso_tf[$extras] into $folder"
  "$python" -m venv "$folder" ||
    fail "$python -m venv failed; on Debian and Ubuntu, install the package python3-venv"
  # Python compiles what it imports, a third of these files; pip would compile all of them.
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    --constraint "$versions" --editable ".[$extras]"
  { grep -sF "$state" "$installed" || true; echo "$extras $state"; } >"$installed.new"
  mv "$installed.new" "$installed"
}

# install_newest EXTRAS
install_newest() {
  command -v python3 >/dev/null || fail "no python3 on the PATH; install Python 3.11 or newer"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, but python3 is $(python3 --version 2>&1)"
  install .venv newest "$1" python3
}

install_addons() {
  local python
  for python in python3.11 python3; do
    if "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      install .venv-addons addons addons,test "$python"
      return
    fi
  done
  fail "TensorFlow 2.15 with TensorFlow Addons needs Python 3.11: no python3.11 on the PATH"
}

check_style() {
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  .venv/bin/mypy
  .venv/bin/lint-imports
}

# run_tests FOLDER [arguments]: several files at a time, each in one process, which shares fixtures.
# Their order is that of tests/conftest.py.
run_tests() {
  TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}" "$1/bin/python" -m pytest \
    --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder "${@:2}"
}

demo() {
  local model_dir=runs/digits_lt
  .venv/bin/daso-tf train --flagfile=flags/digits_lt.cfg --model_dir="$model_dir"
  echo
  echo "The exported model, in a new process, on $model_dir/test_images/<class>_<number>.png:"
  .venv/bin/daso-tf predict --model="$model_dir/export" "$model_dir/test_images"
}

build_docs() {
  .venv/bin/python -m daso_tf.combinations --write=docs
  .venv/bin/python -m sphinx -W --keep-going --quiet -b html docs docs/_build/html
  .venv/bin/python docs/check.py docs/_build/html
}

run_notebooks() {
  TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}" \
    .venv/bin/jupyter-execute --timeout=600 examples/*.ipynb
}

# check_wheel: tests the wheel and the sdist where the checkout is not importable. The new
# environment has only the wheel; other packages come from .venv by a path, which is read after its
# own packages and does not load the editable installation.
check_wheel() {
  local folder dist=$PWD/dist packages
  packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  folder=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$folder'" EXIT
  rm -rf "$dist"
  .venv/bin/python -m build --outdir "$dist" . >"$folder/build.txt" 2>&1 ||
    { cat "$folder/build.txt" >&2; fail "the package cannot be built"; }
  tail -n 1 "$folder/build.txt"
  .venv/bin/python -m venv "$folder/venv"
  "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    "$dist"/daso_tf-*.whl
  echo "$packages" >"$(echo "$folder"/venv/lib/python3*/site-packages)/others.pth"
  tar -xzf "$dist"/daso_tf-*.tar.gz -C "$folder"
  mkdir "$folder/work"
  cd "$folder/work"
  local origin tests=("$folder"/daso_tf-*/tests)
  export PATH="$folder/venv/bin:$PATH"
  origin=$(python -c 'import importlib.util; print(importlib.util.find_spec("daso_tf").origin)')
  [[ $origin == "$folder"/venv/* ]] || fail "the wheel is tested, but daso_tf is $origin"

  quietly daso-tf presets
  quietly daso-tf train --flagfile=digits_lt.cfg --steps=4 --pretrain_steps=2 \
    --evaluate_every=2 --test_images=3
  quietly daso-tf predict --model=runs/digits_lt/export runs/digits_lt/test_images
  export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
  # All tests are collected, so that a file that the sdist lacks is an error.
  python -m pytest -p no:cacheprovider "${tests[0]}" -k test_docstrings.py
}

# quietly COMMAND: runs it; what it writes to stderr is a fault.
quietly() {
  local failed=
  "$@" 2>stderr.txt || failed=1
  cat stderr.txt >&2
  [[ ! $failed && ! -s stderr.txt ]] || fail "'$*' failed or wrote to stderr"
}

case "${1:-}" in
  "" | workers | *.cfg) install_newest test ;;
  # One set of packages for all of them, which is installed once.
  test | docs | notebooks | wheel) install_newest docs,hub,litert,notebooks,onnx,test ;;
  test-addons) install_addons ;;
  *)
    fail "expected nothing, 'workers', 'test', 'test-addons', 'docs', 'notebooks', 'wheel' or a flag" \
      "file such as flags/cifar10_lt.cfg, but found '$1'"
    ;;
esac

case "${1:-}" in
  "") demo ;;
  test)
    check_style
    run_tests .venv "${@:2}"
    ;;
  test-addons) run_tests .venv-addons "${@:2}" ;;
  docs) build_docs ;;
  notebooks) run_notebooks ;;
  wheel) check_wheel ;;
  workers)
    [[ ${2:-} =~ ^[1-9][0-9]*$ && ${3:-} == *.cfg ]] ||
      fail "workers needs their number and a flag file: ./run.sh workers 3 flags/digits_lt.cfg"
    exec .venv/bin/daso-tf workers "$2" --flagfile="$3" "${@:4}"
    ;;
  *.cfg) .venv/bin/daso-tf train --flagfile="$1" "${@:2}" ;;
esac
