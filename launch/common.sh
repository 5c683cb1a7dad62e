# What the launch scripts share; each sources it. Needs bash 4.4 or newer.
# shellcheck shell=bash

dry_run='' # set by --dry-run
command=() # what follows --
others=()  # options that are not the script's own
exec 3>&1  # where --dry-run prints, also from within $(...)

# Print the comment at the top of the script, which is its manual.
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# Say in one line what is wrong with the command line.
refuse() {
  echo "${0##*/}: $1; see $0 --help" >&2
  exit 2
}

# quoted WORD...: the words as one line that a shell reads back.
quoted() {
  local word plain line=''
  for word in "$@"; do
    printf -v plain %q "$word"
    [[ $plain == "$word" ]] || plain=${word@Q}
    line+=" $plain"
  done
  echo "${line# }"
}

# run COMMAND...: run it, or with --dry-run print it instead.
run() {
  if [[ $dry_run ]]; then quoted "$@" >&3; else "$@"; fi
}

# parse VALUES FLAGS ARGUMENT...
#
# For a name in the list VALUES, --name=value sets its variable; for one in FLAGS, --name
# sets it to yes.
parse() {
  local values=" $1 " flags=" dry-run $2 " key
  shift 2
  while (($#)); do
    key=${1#--} key=${key%%=*}
    case $1 in
      --help) usage && exit ;;
      --) command=("${@:2}") && need_program "${2-}" && return ;;
      --?*) ;;
      *) refuse "'$1' is no option, and the command comes after --" ;;
    esac
    if [[ $values == *" $key "* ]]; then
      [[ $1 == --*=?* ]] || refuse "--$key needs a value: --$key=VALUE"
      printf -v "${key//-/_}" %s "${1#*=}"
    elif [[ $flags == *" $key "* ]]; then
      [[ $1 == "--$key" ]] || refuse "--$key takes no value"
      printf -v "${key//-/_}" yes
    else
      others+=("$1")
    fi
    shift
  done
}

# need NAME...: these options must have been given.
need() {
  local key variable
  for key in "$@"; do
    variable=${key//-/_}
    [[ ${!variable} ]] || refuse "--$key=VALUE is missing"
  done
}

# need_number LEAST NAME...: these options are whole numbers, as bash reads them too: 010 is
# eight to it, and 08 an error.
need_number() {
  local key variable
  for key in "${@:2}"; do
    variable=${key//-/_}
    [[ ${!variable} =~ ^(0|[1-9][0-9]{0,8})$ && ${!variable} -ge $1 ]] ||
      refuse "--$key=${!variable} is not a whole number from $1 to 999999999 without \
leading zeros"
  done
}

need_command() {
  ((${#command[@]})) ||
    refuse "what to run is missing: -- kdjax distill --config=FILE --workdir=DIR"
}

# need_program LINE [NAME]: a line begins with what is run, not with a setting as in a shell.
need_program() {
  [[ ! $1 =~ ^[[:space:]]*([A-Za-z_][A-Za-z0-9_]*=) ]] ||
    refuse "${2:-the command} begins with ${BASH_REMATCH[1]}, which is no program: put env \
before it"
}

# Machines that can be taken away take their disks along.
need_bucket() {
  local index workdir=''
  for index in "${!command[@]}"; do
    case ${command[index]} in
      --workdir) workdir=${command[index + 1]-} ;;
      --workdir=*) workdir=${command[index]#*=} ;;
    esac
  done
  [[ $workdir == gs://?* ]] ||
    refuse "the command needs a --workdir=gs://BUCKET/RUN, which outlives the machines"
}
