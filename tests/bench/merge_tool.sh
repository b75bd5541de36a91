#!/bin/sh
# Brings llama.cpp's merge tool, as Debian testing compiles it, with all its libraries to /out: for a Debian that does not have it.
# To be run in the bed's image `tools`.
set -eu
program=/usr/bin/llama-gguf-split
mkdir /out/lib
# shellcheck disable=SC2046  # paths without spaces
cp --dereference $program $(ldd $program | grep -o '/[^ ]*') /out/lib/
cat > /out/llama-gguf-split << 'PROGRAM'
#!/bin/sh
lib=$(dirname "$(readlink -f "$0")")/lib
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$lib/llama-gguf-split" "$@"
PROGRAM
chmod 755 /out/llama-gguf-split
