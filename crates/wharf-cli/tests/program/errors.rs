//! What it says when it cannot, on how many lines, and with which exit code.

use super::common::{Output, Server, WHARF, clean, installed, run, wharf};
use super::each_back_end;
use std::process::Command;

each_back_end! {
    a_taken_address_is_the_machines_no,
    too_few_open_files_are_the_machines_no,
    a_port_without_permission_is_the_machines_no,
}

/// One line, with the exit code.
#[track_caller]
fn refuses(output: &Output, code: i32, texts: &[&str]) {
    assert_eq!(output.code, Some(code), "{}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert!(output.stderr.starts_with("error: "), "{}", output.stderr);
    for text in texts {
        assert!(output.stderr.contains(text), "{text:?} is not in {}", output.stderr);
    }
    assert_eq!(output.stdout, "");
}

/// Whether the machine has the back end.
fn works(back_end: &str) -> bool {
    Server::start(back_end, &[]).is_some()
}

fn a_taken_address_is_the_machines_no(back_end: &str) {
    let Some(server) = Server::start(back_end, &[]) else { return };
    let address = server.addresses[0].to_string();
    let output = run(&mut wharf(&["serve", "--backend", back_end, "--listen", &address]));
    refuses(&output, 4, &[&address, "in use by another program", "ss -ltnp", "another port"]);
    server.stop();
}

fn too_few_open_files_are_the_machines_no(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let script = "ulimit -n 50; exec \"$0\" \"$@\"";
    let command = ["serve", "--backend", back_end, "--listen", "127.0.0.1:0"];
    let shell = [&["-c", script, WHARF][..], &command].concat();
    let output = run(&mut clean(Command::new("sh"), &shell));
    refuses(&output, 4, &["open files", "hard limit is 50", "ulimit -Hn", "fewer links"]);
}

fn a_port_without_permission_is_the_machines_no(back_end: &str) {
    if !works(back_end) || !installed("setpriv", "--version") {
        return;
    }
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if first.is_ok_and(|first| first.trim() == "0") {
        println!("skipped, because this machine has no privileged ports");
        return;
    }
    // A copy where another user can reach it.
    let folder = std::env::temp_dir().join(format!("wharf-{}-{back_end}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("wharf");
    std::fs::copy(WHARF, &program).expect("a copy");
    let program = program.to_string_lossy().into_owned();
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];
    let command = ["serve", "--backend", back_end, "--listen", "127.0.0.1:919"];
    let words = [&user[..], &["--inh-caps=-all", &program], &command].concat();
    let output = run(&mut clean(Command::new("setpriv"), &words));
    std::fs::remove_dir_all(&folder).expect("ours");
    if output.stderr.starts_with("setpriv: ") {
        println!("skipped, because of {}", output.stderr);
        return;
    }
    refuses(&output, 4, &["no permission", "127.0.0.1:919", "CAP_NET_BIND_SERVICE"]);
}

#[test]
fn wharf_alone_says_what_to_try() {
    let output = run(&mut wharf(&[]));
    assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""));
    assert_eq!(output.stderr.lines().count(), 5, "{}", output.stderr);
    assert!(output.stderr.contains("wharf serve --app chat"), "{}", output.stderr);
    assert!(output.stderr.contains("wharf --help"), "{}", output.stderr);
}

#[test]
fn help_and_version_are_no_faults() {
    for (words, text) in [
        (&["-h"][..], "wharf serve --app chat"),
        (&["--help"], "Usage: wharf"),
        (&["serve", "-h"], "--buffer-size <SIZE>"),
        (&["serve", "--help"], "130  ended at once by a second SIGINT"),
        (&["--version"], concat!("wharf ", env!("CARGO_PKG_VERSION"), "\n")),
    ] {
        let output = run(&mut wharf(words));
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{words:?}");
        assert!(output.stdout.contains(text), "{}", output.stdout);
    }
}

#[test]
fn a_wrong_command_line_is_usage() {
    for (words, texts) in [
        (&["serve", "--buffer", "3"][..], &["'--buffer'", "'--buffers'"][..]),
        (&["serv"], &["'serv'", "'serve'"]),
        (&["serve", "--app", "ecko"], &["'ecko'", "'echo'"]),
        (&["serve", "--idle", "10"], &["'10'", "--idle", "unit is missing", "200ms"]),
        (&["serve", "--buffer-size", "2KX"], &["'2KX'", "no unit of size", "2KiB"]),
        (&["serve", "--links", "many"], &["'many'", "not a number"]),
        (&["serve", "--backend", "kqueue"], &["'kqueue'", "auto, uring, epoll"]),
        (&["serve", "--when-full", "panic"], &["'panic'", "wait, refuse"]),
    ] {
        let output = run(&mut wharf(words));
        assert_eq!(output.code, Some(2), "{words:?}: {}", output.stderr);
        for text in texts {
            assert!(output.stderr.contains(text), "{text:?} is not in {}", output.stderr);
        }
    }
}

#[test]
fn a_bad_variable_is_usage_and_is_named() {
    for (name, value) in
        [("WHARF_BACKEND", "kqueue"), ("WHARF_LINKS", "many"), ("WHARF_DRAIN", "ten")]
    {
        let output = run(wharf(&["serve"]).env(name, value));
        assert_eq!(output.code, Some(2), "{}", output.stderr);
        assert!(output.stderr.contains(&format!("'{value}'")), "{}", output.stderr);
        assert!(output.stderr.contains(&format!("variable {name}")), "{}", output.stderr);
    }
    let output = run(wharf(&["serve"]).env("WHARF_LOG", "wharf=loud"));
    refuses(&output, 2, &["WHARF_LOG", "wharf=loud", "info,wharf=debug"]);
}

#[test]
fn settings_that_do_not_fit_are_bad_configuration() {
    let serve = |words: &[&str]| run(&mut wharf(&[&["serve"], words].concat()));
    refuses(
        &serve(&["--links", "0", "--buffer-size", "8"]),
        3,
        &["links_max is 0", "buffer_size_bytes is 8"],
    );
    refuses(&serve(&["--shards", "4", "--links", "3"]), 3, &["each of 4 shards needs one"]);
    refuses(&serve(&["--buffers", "5999"]), 3, &["buffer_count is 5999", "fewer links"]);
    refuses(&serve(&["--send-queue", "8KiB", "--grant", "8KiB"]), 3, &["grant_bytes is 8192"]);
    refuses(&serve(&["--send-queue", "2KiB"]), 3, &["buffer_size_bytes is 2048", "twice that"]);
    refuses(&serve(&["--listen", "127.0.0.1"]), 3, &["\"127.0.0.1\"", "127.0.0.1:9527"]);
}

#[test]
fn a_foreign_address_and_too_little_memory_are_the_machines_no() {
    // 192.0.2.0/24 is reserved for documentation (RFC 5737).
    let output = run(&mut wharf(&["serve", "--listen", "192.0.2.1:9527"]));
    refuses(&output, 4, &["192.0.2.1:9527", "not an address of this machine"]);
    let much = ["serve", "--buffers", "16M", "--buffer-size", "1MiB", "--send-queue", "2MiB"];
    refuses(&run(&mut wharf(&much)), 4, &["memory", "fewer links", "smaller buffers"]);
}
