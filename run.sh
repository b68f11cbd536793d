#!/usr/bin/env bash
# ./run.sh                           trains, exports and tries out the digits demo
# ./run.sh flags/NAME.cfg [flags]    trains any other configuration
# ./run.sh workers N flags/NAME.cfg  the same by N worker processes on this machine
# ./run.sh test                      checks style and runs the test suite
# ./run.sh test-addons               runs it with TensorFlow 2.15 and TensorFlow Addons
#
# The first call makes .venv beside this file and installs daso_tf into it, in the versions that
# requirements/newest.txt lists; test-addons has its own .venv-addons and requirements/addons.txt.
set -euo pipefail
cd "$(dirname "$0")"

# Without a GPU, all that TensorFlow logs at its start is that there is none.
command -v nvidia-smi >/dev/null || export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"

fail() {
  echo "run.sh: $*" >&2
  exit 1
}

# install FOLDER VERSIONS EXTRAS PYTHON: makes FOLDER a virtual environment with daso_tf in it.
install() {
  local folder=$1 versions=requirements/$2.txt extras=$3 python=$4
  if command -v nvidia-smi >/dev/null; then extras=cuda,$extras; fi
  # Written last, so that an installation that was cut short is done again.
  local installed=$folder/installed
  local wanted
  wanted="$extras $(cat setup.py "$versions" | cksum)"
  if [[ -f $installed && $(<"$installed") == "$wanted" ]]; then return; fi

  echo "Installing daso_tf[$extras] into $folder"
  "$python" -m venv "$folder" ||
    fail "$python -m venv failed; on Debian and Ubuntu, install the package python3-venv"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$versions" --editable ".[$extras]"
  echo "$wanted" >"$installed"
}

install_newest() {
  command -v python3 >/dev/null || fail "no python3 on the PATH; install Python 3.11 or newer"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, but python3 is $(python3 --version 2>&1)"
  install .venv newest test python3
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
}

# run_tests FOLDER [arguments]: files side by side, each by one process, which keeps its fixtures.
run_tests() {
  "$1/bin/python" -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile "${@:2}"
}

demo() {
  local model_dir=runs/digits_lt
  .venv/bin/python -m daso_tf.train --flagfile=flags/digits_lt.cfg --model_dir="$model_dir"
  echo
  echo "The exported model, in a process of its own, on $model_dir/test_images/<class>_<number>.png:"
  .venv/bin/python -m daso_tf.predict --model="$model_dir/export" "$model_dir/test_images"
}

case "${1:-}" in
  "" | test | workers | *.cfg) install_newest ;;
  test-addons) install_addons ;;
  *)
    fail "expected nothing, 'workers', 'test', 'test-addons' or a flag file such as flags/cifar10_lt.cfg," \
      "but found '$1'"
    ;;
esac

case "${1:-}" in
  "") demo ;;
  test)
    check_style
    run_tests .venv "${@:2}"
    ;;
  test-addons) run_tests .venv-addons "${@:2}" ;;
  workers)
    [[ ${2:-} =~ ^[1-9][0-9]*$ && ${3:-} == *.cfg ]] ||
      fail "workers needs their number and a flag file: ./run.sh workers 3 flags/digits_lt.cfg"
    exec .venv/bin/python -m daso_tf.workers "$2" --flagfile="$3" "${@:4}"
    ;;
  *.cfg) .venv/bin/python -m daso_tf.train --flagfile="$1" "${@:2}" ;;
esac
