//! Conditions of the system that the program meets: a system call that fails, a limit, a user.

use super::common::{WHARF, clean, copy_program, installed};
use super::skip::lacks;
use std::process::Command;

/// Makes a system call fail in the program that it becomes.
const FAIL_CALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wharf/tests/util/fail_call.py");

/// The program with arguments, where a system call fails; `None`, with the reason printed, if that
/// cannot be brought about.
pub(crate) fn where_a_call_fails(call: &str, error: &str, words: &[&str]) -> Option<Command> {
    let words = [&[FAIL_CALL, call, error, WHARF][..], words].concat();
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
        copy_program(&folder.join("wharf"));
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
    let number = name
        .bytes()
        .fold(std::process::id(), |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let user = 20_000 + number % 40_000;
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
