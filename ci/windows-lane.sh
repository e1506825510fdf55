#!/bin/bash
# windows-lane.sh: run a cargo command for Windows x86-64 on a Debian 12 machine.
#
#   ci/windows-lane.sh test --workspace          build for x86_64-pc-windows-gnu, run the tests under Wine
#   ci/windows-lane.sh clippy -- -D warnings     (any cargo command: build, run, nextest run, test --doc, ...)
#   ci/windows-lane.sh --exe FILE.exe ARGS...    run a built program under Wine
#   ci/windows-lane.sh --shell CMD ARGS...       run any command with the lane's environment
#   ci/windows-lane.sh --setup                   only prepare (install, build std, make the Wine prefix)
#
# It needs root, for apt; the Debian archive that apt is set up for; and the Rust toolchain that is
# active in the current folder, in which nothing is changed. What it makes is kept in
# $WINDOWS_LANE_DIR (default ~/.cache/windows-lane; about 650 MB) and used again, by other checkouts
# too: the first run takes some minutes, later ones seconds.
#
# How:
#  1. mingw gcc (linker, dlltool) and patchelf: apt-get install.
#  2. std for Windows: the toolchain has none and rustup cannot fetch one, so std is built once from
#     source (a minute or two) into a sysroot that rustc is pointed at with --sysroot:
#       match  the package rust-src of exactly this rustc's version, from Debian's trixie-backports or
#              sid, compiled by this very rustc (so the Windows lane tests the compiler that ships);
#       web    when no such version is there any more: rustc-web + rust-web-src of bookworm-security,
#              unpacked in the cache, not installed. Then that rustc also builds the project.
#  3. Wine: 10.0 from trixie unpacked in the cache with its own libc (rpath), or else Debian 12's 8.0.
#     Wine 8.0 has no bcryptprimitives.dll, which Rust's std imports: a ten-line shim stands in.
#
# Settings: WINDOWS_LANE_DIR, WINDOWS_LANE_STD=auto|match|web, WINDOWS_LANE_WINE=auto|10|8.
set -euo pipefail

T=x86_64-pc-windows-gnu
C=${WINDOWS_LANE_DIR:-$HOME/.cache/windows-lane}
STD=${WINDOWS_LANE_STD:-auto}
WINE=${WINDOWS_LANE_WINE:-auto}
mkdir -p "$C"
say() { echo "windows-lane: $*" >&2; }
quiet() { "$@" >"$C/last.log" 2>&1 || { say "failed: $*"; tail -n 40 "$C/last.log" >&2; return 1; }; }

# One lane at a time: they share the Wine prefix.
exec 9>"$C/lock"
flock 9

# --- 1. packages ---------------------------------------------------------------------------------
apt_update_once() {
    [ -n "${UPDATED:-}" ] && return
    quiet apt-get update
    UPDATED=1
}
apt_need() { # names...: installs those that are missing
    local miss=() p
    for p in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || miss+=("$p")
    done
    [ ${#miss[@]} = 0 ] && return
    say "installing ${miss[*]}"
    apt_update_once
    DEBIAN_FRONTEND=noninteractive quiet apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${miss[@]}"
}
# An apt of our own that looks at one other Debian suite, with no say over the machine's own apt.
suite_apt() { # suite
    local d=$C/apt/$1 uri
    [ -e "$d/.fresh" ] && [ -z "$(find "$d/.fresh" -mmin +720)" ] && return
    # the archive this machine already uses
    uri=$(apt-get indextargets --format '$(ORIGIN)|$(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian|//p' | grep -v security | head -n 1)
    if [ -z "$uri" ]; then
        apt_update_once
        uri=$(apt-get indextargets --format '$(ORIGIN)|$(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian|//p' | grep -v security | head -n 1)
    fi
    mkdir -p "$d"/{state,lists/partial,archives/partial}
    : >"$d/state/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $1 main" >"$d/sources.list"
    cat >"$d/apt.conf" <<EOF
Dir::Etc::sourcelist "$d/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$d/state";
Dir::State::lists "$d/lists";
Dir::State::status "$d/state/status";
Dir::Cache "$d";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Sandbox::User "root";
EOF
    APT_CONFIG=$d/apt.conf quiet apt-get update || return 1
    touch "$d/.fresh"
}
suite_download() { # suite folder packages...: .deb files into folder
    local d=$C/apt/$1 to=$2
    shift 2
    mkdir -p "$to"
    (cd "$to" && APT_CONFIG=$d/apt.conf quiet apt-get download "$@")
}

# --- 2. std for Windows --------------------------------------------------------------------------
build_std() { # rustc library-folder out
    local rustc=$1 lib=$2 out=$3 b=$3.build cargo hash
    # cargo from the same toolchain where there is one
    cargo=$("$rustc" --print sysroot)/bin/cargo
    [ -x "$cargo" ] || cargo=$(rustup which cargo 2>/dev/null || command -v cargo)
    hash=$("$rustc" -vV | sed -n 's/^commit-hash: //p')
    say "building std $("$rustc" --version) for $T (once)"
    rm -rf "$out" "$b"
    # From the library folder, so that the checkout's .cargo/config.toml has no say. Vendored
    # dependencies come with the sources; dev-dependencies do not, hence -Zavoid-dev-deps.
    (cd "$lib" &&
        env -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET \
            RUSTC="$rustc" RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$b" __CARGO_DEFAULT_LIB_METADATA=stablewindows-lane \
            CARGO_PROFILE_RELEASE_DEBUG=0 \
            RUSTFLAGS="-Zforce-unstable-if-unmarked -Cembed-bitcode=yes --remap-path-prefix=$lib=/rustc/$hash/library" \
            "$cargo" build --release --offline -Zavoid-dev-deps --target $T --manifest-path sysroot/Cargo.toml \
            --features panic-unwind,backtrace,compiler-builtins-mem \
            --config "source.crates-io.replace-with='vendored'" --config "source.vendored.directory='$lib/vendor'") \
        >"$C/std-build.log" 2>&1 || { tail -n 30 "$C/std-build.log" >&2; return 1; }
    local d=$out/lib/rustlib/$T/lib o
    mkdir -p "$d"
    cp "$b/$T/release/deps"/*.rlib "$d/"
    for o in rsbegin rsend; do # start-up objects that the linker is given by name
        [ ! -e "$lib/rtstartup/$o.rs" ] || RUSTC_BOOTSTRAP=1 "$rustc" --target $T --emit=obj -o "$d/$o.o" "$lib/rtstartup/$o.rs"
    done
    rm -rf "$b"
    "$rustc" -vV >"$out/ok"
}
std_match() {
    local rustc release out suite ver
    rustc=$(rustup which rustc 2>/dev/null || command -v rustc)
    release=$("$rustc" -vV | sed -n 's/^release: //p')
    out=$C/std-$release-match
    if ! [ -e "$out/ok" ] || [ "$(cat "$out/ok")" != "$("$rustc" -vV)" ]; then
        for suite in trixie-backports sid; do
            suite_apt $suite || continue
            ver=$(APT_CONFIG=$C/apt/$suite/apt.conf apt-cache madison rust-src | awk -F'|' '{gsub(/ /,"",$2); print $2}' | grep -F "$release+dfsg" | head -n 1) || true
            [ -n "$ver" ] && break
        done
        [ -n "$ver" ] || { say "no rust-src $release in trixie-backports or sid"; return 1; }
        say "fetching rust-src $ver from $suite"
        rm -rf "$C/src-match" && suite_download "$suite" "$C/src-match" "rust-src=$ver" || return 1
        dpkg-deb --fsys-tarfile "$C"/src-match/*.deb | tar -x -C "$C/src-match" --wildcards './usr/src/rustc-*/library/*'
        build_std "$rustc" "$(echo "$C"/src-match/usr/src/rustc-*/library)" "$out" || return 1
        rm -rf "$C/src-match"
    fi
    SYSROOT=$out
}
std_web() {
    local r=$C/rustc-web out=$C/std-web p
    if ! [ -e "$out/ok" ]; then
        say "fetching rustc-web and rust-web-src (unpacked, not installed)"
        apt_update_once
        rm -rf "$r" "$C/debs-web" && mkdir -p "$r/bin" "$C/debs-web/partial"
        quiet apt-get install -y --download-only --no-install-recommends -o Dir::Cache::archives="$C/debs-web" rustc-web rust-web-src || return 1
        for p in "$C"/debs-web/*.deb; do
            dpkg-deb --fsys-tarfile "$p" | tar -x -C "$r" --anchored --no-wildcards-match-slash \
                --exclude './usr/share' --exclude './usr/src/rustc-*/compiler' --exclude './usr/src/rustc-*/src'
        done
        rm -rf "$C/debs-web"
        for p in rustc rustdoc; do
            printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$r/usr/lib/x86_64-linux-gnu" "$r/usr/bin/$p" >"$r/bin/$p"
            chmod +x "$r/bin/$p"
        done
        build_std "$r/bin/rustc" "$(echo "$r"/usr/src/rustc-*/library)" "$out" || return 1
        rm -rf "$r"/usr/src
    fi
    SYSROOT=$out
    export RUSTC=$r/bin/rustc RUSTDOC=$r/bin/rustdoc
}

# --- 3. Wine -------------------------------------------------------------------------------------
wine10() {
    local w=$C/wine10 l f
    if ! [ -e "$w/ok" ]; then
        apt_need patchelf
        suite_apt trixie || return 1
        say "fetching Wine 10 from trixie (unpacked, not installed)"
        rm -rf "$w" "$C/debs-wine" && mkdir -p "$w"
        suite_download trixie "$C/debs-wine" libwine wine64 libz-mingw-w64 libc6 libunwind8 liblzma5 libgcc-s1 zlib1g || return 1
        for f in "$C"/debs-wine/*.deb; do
            dpkg-deb --fsys-tarfile "$f" | tar -x -C "$w" --exclude './usr/share/doc' --exclude './usr/share/man' --exclude './usr/i686*'
        done
        rm -rf "$C/debs-wine"
        l=$w/usr/lib/x86_64-linux-gnu
        # debug sections are two thirds of it, and the prefix gets a copy of each file
        find "$l/wine/x86_64-windows" -type f -print0 | xargs -0 -P "$(nproc)" -n 40 x86_64-w64-mingw32-strip --strip-debug 2>/dev/null || true
        for f in wine64 wineserver64; do # its own libc, wherever this folder is
            patchelf --force-rpath --set-rpath "$l" --set-interpreter "$l/ld-linux-x86-64.so.2" "$w/usr/lib/wine/$f" || return 1
        done
        ln -f "$w/usr/lib/wine/wineserver64" "$w/usr/lib/wine/wineserver" # a shell script before
        ln -sfn . "$w/usr/share/wine/wine" # where this wineserver looks for nls/
        touch "$w/ok"
    fi
    WINEBIN=$w/usr/lib/wine/wine64
    WINESRV=$w/usr/lib/wine/wineserver
    WINEDLLS=$w/usr/lib/x86_64-linux-gnu/wine/x86_64-windows
    WINEZLIB=$w/usr/x86_64-w64-mingw32/lib/zlib1.dll
    export WINEPREFIX=$C/prefix10
}
wine8() {
    apt_need wine64
    WINEBIN=/usr/lib/wine/wine64
    WINESRV=/usr/lib/wine/wineserver64
    WINEDLLS=/usr/lib/x86_64-linux-gnu/wine/x86_64-windows
    WINEZLIB=
    export WINEPREFIX=$C/prefix8
}
wine_prefix() {
    export WINEDEBUG=${WINEDEBUG:--all}
    unset DISPLAY WAYLAND_DISPLAY
    if ! [ -e "$WINEPREFIX/ok" ]; then
        say "making the Wine prefix"
        rm -rf "$WINEPREFIX"
        # Wine 10's user32.dll needs zlib1.dll, which is not one of Wine's own files
        mkdir -p "$WINEPREFIX/drive_c/windows/system32"
        [ -z "$WINEZLIB" ] || cp "$WINEZLIB" "$WINEPREFIX/drive_c/windows/system32/"
        # No Mono, no Gecko. It complains of a missing syswow64 (there is no 32-bit side): no matter.
        WINEDLLOVERRIDES="mscoree,mshtml=" timeout 300 "$WINEBIN" wineboot -i >"$C/wineboot.log" 2>&1 9>&- || { cat "$C/wineboot.log" >&2; return 1; }
        timeout 60 "$WINESRV" -w 9>&- || true
        if [ "$("$WINEBIN" cmd /c 'echo works' 2>>"$C/wineboot.log" 9>&- | tr -d '\r\n')" != works ]; then
            say "Wine does not run"
            cat "$C/wineboot.log" >&2
            return 1
        fi
        timeout 60 "$WINESRV" -w 9>&- || true
        if ! [ -e "$WINEDLLS/bcryptprimitives.dll" ]; then
            cat >"$C/bcryptprimitives.c" <<'EOF'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(PVOID, ULONG); /* RtlGenRandom */
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE p, SIZE_T n) {
    while (n) {
        ULONG k = n > 0x10000000 ? 0x10000000 : (ULONG)n;
        if (!SystemFunction036(p, k)) return FALSE;
        p += k;
        n -= k;
    }
    return TRUE;
}
EOF
            x86_64-w64-mingw32-gcc -O2 -shared -s -o "$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll" "$C/bcryptprimitives.c" -ladvapi32
        fi
        touch "$WINEPREFIX/ok"
    fi
}

# --- prepare -------------------------------------------------------------------------------------
apt_need gcc-mingw-w64-x86-64-win32
case $STD in
    match) std_match ;;
    web) std_web ;;
    *) std_match || std_web ;;
esac
case $WINE in
    10) wine10; wine_prefix ;;
    8) wine8; wine_prefix ;;
    *) { wine10 && wine_prefix; } || { wine8; wine_prefix; } ;;
esac

# --- run -----------------------------------------------------------------------------------------
# Flags for the target only (build scripts and procedural macros are compiled for this machine
# without them). A RUSTFLAGS in the environment would replace them, so it is folded in.
export CARGO_BUILD_TARGET=$T
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=$WINEBIN
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUSTFLAGS="--sysroot=$SYSROOT ${RUSTFLAGS:-}"
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUSTDOCFLAGS="--sysroot=$SYSROOT ${RUSTDOCFLAGS:-}"
unset RUSTFLAGS RUSTDOCFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_ENCODED_RUSTDOCFLAGS
[ "${1:-}" = --setup ] && exit 0
[ $# -gt 0 ] || { say "which cargo command?"; exit 2; }
# Every socket costs the Wine server descriptors too.
ulimit -n "$(ulimit -Hn)" || true
# Keep one Wine server for the whole run (starting it takes 1-3 s), and leave none behind. It also
# ends by itself 300 s after its last program. Descriptor 9, the lock, must not pass to it.
"$WINESRV" -p300 9>&- || true # not zero: one is running already
# A first program starts Wine's services here, where they inherit no test's output pipe (nextest
# would call that a leak).
"$WINEBIN" cmd /c exit </dev/null >/dev/null 2>&1 9>&- || true
trap '"$WINESRV" -k >/dev/null 2>&1 9>&- || true; timeout 20 "$WINESRV" -w 2>/dev/null 9>&- || true' EXIT
say "$("$WINEBIN" --version 9>&-), $(basename "$SYSROOT")"
rc=0
case $1 in
    --exe) shift; "$WINEBIN" "$@" 9>&- || rc=$? ;;
    --shell) shift; "$@" 9>&- || rc=$? ;;
    *) cargo "$@" 9>&- || rc=$? ;;
esac
exit $rc
