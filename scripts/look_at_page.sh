#!/bin/bash
# Loads a page of `dunlin profile --html` in a headless Chromium, light, dark and narrow, and leaves a picture of each.
# Any message on the page's console is a failure. Needs Chromium (Debian: chromium).
#
#   scripts/look_at_page.sh PAGE.html FOLDER
set -euo pipefail

page=$(realpath "$1")
folder=$(mkdir -p "$2" && realpath "$2")
browser=${CHROMIUM:-$(command -v chromium || command -v chromium-headless-shell || command -v google-chrome)}
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT

look() { # NAME WIDTH HEIGHT SCHEME, where scheme 0 is dark and 1 is light
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" \
        --enable-logging=stderr --v=0 --blink-settings=preferredColorScheme="$4" --window-size="$2,$3" \
        --virtual-time-budget=5000 --screenshot="$folder/$1.png" "file://$page" 2> "$folder/$1.log" > /dev/null
    if grep CONSOLE "$folder/$1.log"; then
        echo "$1: the page wrote to the console" >&2
        exit 1
    fi
    test -s "$folder/$1.png"
    rm "$folder/$1.log"
}

look light 1280 2600 1
look dark 1280 2600 0
look narrow 400 3400 1
echo "$folder: light.png, dark.png, narrow.png, and nothing on the console"
