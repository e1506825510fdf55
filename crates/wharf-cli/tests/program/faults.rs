//! Conditions of the system that the program meets: a system call that fails, a limit, a user.

use super::common::{WHARF, clean, installed};
use super::skip::lacks;
use std::process::Command;

/// Makes a system call fail by a seccomp filter, in the program that it becomes: `CALL ERROR PROGRAM
/// ARGUMENTS`. Needs no rights, and works in containers.
const FAIL: &str = r#"
import ctypes, errno, os, platform, struct, sys
NUMBERS = {  # x86-64, arm64
    "bind": (49, 200), "listen": (50, 201), "socketpair": (53, 199), "eventfd2": (290, 19),
    "epoll_pwait": (281, 22), "getsockname": (51, 204), "io_uring_setup": (425, 425),
}
call, error = sys.argv[1:3]
number = NUMBERS[call][platform.machine() != "x86_64"]
libc = ctypes.CDLL(None, use_errno=True)
def instruction(code, jt, jf, k):
    return struct.pack("HBBI", code, jt, jf, k)
program = b"".join([
    instruction(0x20, 0, 0, 0),            # load the system call's number
    instruction(0x15, 0, 1, number),       # if it is this one
    instruction(0x06, 0, 0, 0x00050000 | getattr(errno, error)),
    instruction(0x06, 0, 0, 0x7FFF0000),   # else allow
])
memory = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
filter = Filter(len(program) // 8, ctypes.addressof(memory))
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(filter), 0, 0):
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[3], sys.argv[3:])
"#;

/// The program with arguments, where a system call fails; `None`, with the reason printed, if that
/// cannot be brought about.
pub(crate) fn where_a_call_fails(call: &str, error: &str, words: &[&str]) -> Option<Command> {
    let words = [&["-c", FAIL, call, error, WHARF][..], words].concat();
    installed("python3", "--version").then(|| clean(Command::new("python3"), &words))
}

/// A copy of the program where another user can reach it. Dropped, it is removed.
struct Copy {
    folder: std::path::PathBuf,
}

impl Copy {
    fn make(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("wharf-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::copy(WHARF, folder.join("wharf")).expect("a copy");
        Self { folder }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).expect("ours");
    }
}

/// Calls `body` with the program with arguments, run by a user without rights who may have so many
/// threads; prints the reason where this user can neither become another one nor have a name space.
///
/// The limit is one of a user, whose threads elsewhere count: each call takes a user of its own. Who
/// may not become another one has threads of its own in a name space of users.
pub(crate) fn with_threads(name: &str, threads: u32, words: &[&str], body: impl FnOnce(Command)) {
    if !installed("setpriv", "--version") || !installed("prlimit", "--version") {
        return;
    }
    let copy = Copy::make(name);
    let program = copy.folder.join("wharf").to_string_lossy().into_owned();
    let user = 20_000 + (std::process::id() * 2 + u32::from(name.ends_with("epoll"))) % 40_000;
    let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
    let caps = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];
    let become_another = [&["setpriv", &user, &group][..], &caps].concat();
    let name_space = vec!["unshare", "--user"];
    for begin in [become_another, name_space] {
        let works = Command::new(begin[0]).args(&begin[1..]).arg("true").output();
        if works.is_ok_and(|output| output.status.success()) {
            let limit = format!("--nproc={threads}:{threads}");
            let words = [&begin[1..], &["prlimit", &limit, &program], words].concat();
            return body(clean(Command::new(begin[0]), &words));
        }
    }
    lacks("this user can neither become another one nor have a name space of users");
}
