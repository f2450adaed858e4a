#!/bin/sh
# Unpack Debian's headless Chromium, with the libraries that this machine lacks, into the folder $1.
#
# Neither needs root nor changes the system: apt only says what is missing and fetches it, from wherever this machine has it
# from. Where apt is absent or has no such package, it fails with one line.
set -eu

FOLDER=$1
PACKAGE=chromium-headless-shell

candidate() {
	LC_ALL=C apt-cache "$@" policy "$PACKAGE" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -v '^(none)$' || true
}

if "$FOLDER/chromium" --version >/dev/null 2>&1; then
	exit 0
fi
VERSION=$(candidate)
set --
if [ -z "$VERSION" ] && command -v apt-get >/dev/null; then
	# No lists of packages, as in many images of containers: they are fetched into the folder.
	mkdir -p "$FOLDER/apt/lists/partial" "$FOLDER/apt/archives/partial"
	set -- -o "Dir::State::lists=$FOLDER/apt/lists" -o "Dir::Cache=$FOLDER/apt"
	apt-get "$@" -qq update 2>/dev/null || true
	VERSION=$(candidate "$@")
fi
if [ -z "$VERSION" ]; then
	echo "apt has no package $PACKAGE" >&2
	rm -rf "$FOLDER"
	exit 1
fi

rm -rf "$FOLDER/packages" "$FOLDER/root"
mkdir -p "$FOLDER/packages" "$FOLDER/root"
MISSING=$(LC_ALL=C apt-get "$@" install --simulate --no-install-recommends "$PACKAGE" | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
# shellcheck disable=SC2086 # one word a package
(cd "$FOLDER/packages" && apt-get "$@" -qq download ${MISSING:-$PACKAGE} 2>/dev/null)
for package in "$FOLDER"/packages/*.deb; do
	dpkg-deb --extract "$package" "$FOLDER/root"
done
rm -rf "$FOLDER/packages" "$FOLDER/apt"

# The loader gets the folders with the unpacked libraries; what the machine has itself stays where it is.
LIBRARIES=$(find "$FOLDER/root/usr/lib" "$FOLDER/root/lib" -name '*.so*' -printf '%h\n' 2>/dev/null | sort -u | paste -s -d :)
cat > "$FOLDER/chromium" <<END
#!/bin/sh
LD_LIBRARY_PATH="$LIBRARIES" exec "$FOLDER/root/usr/lib/chromium/chromium-headless-shell" "\$@"
END
chmod +x "$FOLDER/chromium"
"$FOLDER/chromium" --version >/dev/null
