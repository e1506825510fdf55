//! What it says when it cannot, on how many lines, and with which exit code.

use super::common::{Output, Server, WHARF, clean, copy_program, run, wharf};
use super::each_back_end;
use super::faults::{where_a_call_fails, with_threads};
use super::skip::lacks;
use super::snapshot::{matches, transcript};
use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

each_back_end! {
    a_taken_address_is_a_system_error,
    too_few_open_files_are_a_system_error,
    a_port_without_permission_is_a_system_error,
    too_few_threads_are_a_system_error,
    too_little_address_space_is_a_system_error,
}

/// One line, with the exit code.
#[track_caller]
fn refuses(command: &str, output: &Output, code: i32) -> String {
    assert_eq!(output.code, Some(code), "{command}: {}", output.stderr);
    assert_eq!(output.stderr.lines().count(), 1, "{command}: {}", output.stderr);
    assert!(output.stderr.starts_with("error: "), "{command}: {}", output.stderr);
    assert_eq!(output.stdout, "", "{command}");
    transcript(command, output)
}

/// What `commands` say, each of which may begin with variables; all of them end with `code`.
#[track_caller]
fn all_refuse(commands: &[&str], code: i32) -> String {
    let refusals = commands.iter().map(|line| {
        let (mut variables, mut words) = (Vec::new(), Vec::new());
        for word in line.split(' ') {
            match word.split_once('=') {
                Some(variable) if word.starts_with("WHARF_") => variables.push(variable),
                _ => words.push(word),
            }
        }
        assert_eq!(words.remove(0), "wharf");
        refuses(line, &run(wharf(&words).envs(variables)), code)
    });
    refusals.collect()
}

/// Whether the machine has the back end.
fn works(back_end: &str) -> bool {
    Server::start(back_end, &[]).is_some()
}

fn a_taken_address_is_a_system_error(back_end: &str) {
    let Some(server) = Server::start(back_end, &[]) else { return };
    let address = server.addresses[0].to_string();
    let output = run(&mut wharf(&["serve", "--backend", back_end, "--listen", &address]));
    let command = format!("wharf serve --listen {address}");
    let refusal = refuses(&command, &output, 4);
    matches("refused-address-in-use", &server.own_numbers(&refusal));
    server.stop();
}

#[test]
fn an_address_that_is_given_twice_is_a_system_error() {
    // Free a moment ago, and refused before it is used a second time.
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let address = free.to_string();
    let output = run(&mut wharf(&["serve", "--listen", &address, "--listen", &address]));
    let command = format!("wharf serve --listen {address} --listen {address}");
    let refusal = refuses(&command, &output, 4).replace(&free.port().to_string(), "[PORT]");
    matches("refused-address-twice", &refusal);
}

fn too_few_open_files_are_a_system_error(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let script = "ulimit -n 50; exec \"$0\" \"$@\"";
    let command = ["serve", "--backend", back_end, "--listen", "127.0.0.1:0", "--shards", "1"];
    let shell = [&["-c", script, WHARF][..], &command].concat();
    let output = run(&mut clean(Command::new("sh"), &shell));
    let command = "ulimit -n 50; wharf serve --shards 1";
    matches("refused-open-files", &refuses(command, &output, 4));
}

fn a_port_without_permission_is_a_system_error(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let words = ["serve", "--backend", back_end, "--listen", "127.0.0.1:919"];
    let Some(mut command) = where_a_call_fails("bind", "EACCES", &words) else { return };
    let command_line = "wharf serve --listen 127.0.0.1:919";
    matches("refused-permission", &refuses(command_line, &run(&mut command), 4));
}

fn too_few_threads_are_a_system_error(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let words = ["serve", "--backend", back_end, "--listen", "127.0.0.1:0", "--shards", "8"];
    // The main thread, one that writes, one for signals, and a shard; or less.
    let mut text = String::new();
    for threads in [1, 2, 4] {
        with_threads(&format!("threads-{threads}-{back_end}"), threads, &words, |mut command| {
            let command_line = format!("ulimit -u {threads}; wharf serve --shards 8");
            text += &refuses(&command_line, &run(&mut command), 4);
        });
    }
    if !text.is_empty() {
        matches("refused-threads", &text);
    }
}

/// For each call that hardly ever fails; what it says when one does.
#[test]
fn a_call_that_fails_is_named() {
    let serve = ["serve", "--backend", "epoll", "--shards", "1", "--listen", ""];
    let mut text = String::new();
    // An address that no other test takes meanwhile.
    const OWN: &str = "127.0.0.1:919";
    for (call, error, address, code) in [
        ("socketpair", "EMFILE", "127.0.0.1:0", 4),
        ("eventfd2", "EMFILE", "127.0.0.1:0", 4),
        ("socket", "EAFNOSUPPORT", "[::1]:0", 4),
        ("bind", "EADDRINUSE", OWN, 4),
        ("bind", "EINVAL", OWN, 4),
        ("listen", "EOPNOTSUPP", "127.0.0.1:0", 4),
        ("getsockname", "ENOBUFS", "127.0.0.1:0", 4),
    ] {
        let mut words = serve;
        words[6] = address;
        let Some(mut command) = where_a_call_fails(call, error, &words) else { return };
        let line = format!("wharf serve --listen {} # {call}: {error}", words[6]);
        text += &refuses(&line, &run(&mut command), code);
    }
    matches("refused-calls", &text);
}

/// It starts, and then ends by itself.
#[test]
fn a_server_that_fails_says_why() {
    let serve = ["serve", "--backend", "epoll", "--shards", "1", "--listen", "127.0.0.1:0"];
    let Some(mut command) = where_a_call_fails("epoll_pwait", "EBADF", &serve) else { return };
    let output = run(command.env("WHARF_LOG", "off"));
    let line = "WHARF_LOG=off wharf serve # epoll_pwait: EBADF";
    matches("failed", &refuses(line, &output, 1));
}

/// Enough address space for the program, and not for its buffers.
fn too_little_address_space_is_a_system_error(back_end: &str) {
    if !works(back_end) {
        return;
    }
    let script = "ulimit -v 300000; exec \"$0\" \"$@\"";
    let command = ["serve", "--backend", back_end, "--listen", "127.0.0.1:0", "--shards", "1"];
    let many = ["--buffers", "200k"];
    let shell = [&["-c", script, WHARF][..], &command, &many].concat();
    let output = run(&mut clean(Command::new("sh"), &shell));
    let command = "ulimit -v 300000; wharf serve --shards 1 --buffers 200k";
    matches("refused-address-space", &refuses(command, &output, 4));
}

#[test]
fn a_wrong_command_line_is_usage() {
    let mut text = all_refuse(
        &[
            "wharf -x",
            "wharf --ascii",
            "wharf serv",
            "wharf help",
            "wharf serve extra",
            "wharf serve -- extra",
            "wharf serve --buffer 3",
            "wharf serve --buffer_size 3",
            "wharf serve --zzz",
            "wharf serve --links 3 --links 4",
            "wharf serve --ascii=yes",
        ],
        2,
    );
    let mut command = wharf(&["serve", "--links"]);
    let output = run(command.arg(OsStr::from_bytes(b"\xff")));
    text += &refuses("wharf serve --links $'\\xff'", &output, 2);
    matches("usage", &text);
}

/// For each option one that is wrong, and for each kind of value all that can be wrong with it.
#[test]
fn a_wrong_value_is_usage() {
    let text = all_refuse(
        &[
            "wharf serve --app ecko",
            "wharf serve --app xyz",
            "wharf serve --app",
            "wharf serve --app=",
            "wharf serve --backend kqueue",
            "wharf serve --when-full panic",
            "wharf serve --color pink",
            "wharf serve --listen",
            "wharf serve --links many",
            "wharf serve --links",
            "wharf serve --links -1",
            "wharf serve --links 1.5",
            "wharf serve --links 10KiB",
            "wharf serve --links 5000M",
            "wharf serve --links 1,5",
            "wharf serve --links 1,00",
            "wharf serve --links 1_",
            "wharf serve --links 99999999999999999999999999999999999999999",
            "wharf serve --buffers 1..2",
            "wharf serve --shards two",
            "wharf serve --backlog long",
            "wharf serve --buffer-size 2KX",
            "wharf serve --buffer-size big",
            "wharf serve --buffer-size 5GiB",
            "wharf serve --buffer-size 1.0001k",
            "wharf serve --buffer-size 1,5KiB",
            "wharf serve --send-queue 1X",
            "wharf serve --input-bytes 1X",
            "wharf serve --grant 1X",
            "wharf serve --idle 10",
            "wharf serve --idle soon",
            "wharf serve --idle 10parsecs",
            "wharf serve --idle 99999999999999999999h",
            "wharf serve --idle 0.0001us",
            "wharf serve --idle 1,5s",
            "wharf serve --idle 1h30",
            "wharf serve --idle 1.5h30m",
            "wharf serve --idle 30m1h",
            "wharf serve --idle 1m1m",
            "wharf serve --idle -1s",
            "wharf serve --drain 5",
            "wharf serve --stats 5",
            "wharf serve --stall 5",
            "wharf serve --loan-wait 5",
        ],
        2,
    );
    matches("usage-values", &text);
}

#[test]
fn a_bad_variable_is_usage_and_is_named() {
    let mut text = all_refuse(
        &[
            "WHARF_APP=ecko wharf serve",
            "WHARF_ASCII=perhaps wharf serve",
            "WHARF_BACKEND=kqueue wharf serve",
            "WHARF_COLOR=pink wharf serve",
            "WHARF_DRAIN=ten wharf serve",
            "WHARF_LINKS=many wharf serve",
            "WHARF_LINKS=1 wharf serve --links many",
            "WHARF_LOG=wharf=loud wharf serve",
            "WHARF_LOG=inf wharf serve",
            "WHARF_LOG=info,trade wharf serve",
            "WHARF_LOG=wharfs=info wharf serve",
        ],
        2,
    );
    let output = run(wharf(&["serve"]).env("WHARF_LOG", OsStr::from_bytes(b"\xff")));
    text += &refuses("WHARF_LOG=$'\\xff' wharf serve", &output, 2);
    let output = run(wharf(&["serve"]).env("WHARF_LINKS", OsStr::from_bytes(b"\xff")));
    text += &refuses("WHARF_LINKS=$'\\xff' wharf serve", &output, 2);
    matches("usage-variables", &text);
}

#[test]
fn settings_that_do_not_fit_are_bad_configuration() {
    let text = all_refuse(
        &[
            "wharf serve --links 0 --buffers 0 --buffer-size 8 --shards 300 --backlog 0",
            "wharf serve --input-bytes 0 --send-queue 0 --grant 0 --shards 1",
            "wharf serve --shards 4 --links 3",
            "wharf serve --shards 1 --buffers 5999",
            "wharf serve --shards 1 --send-queue 8KiB --grant 8KiB",
            "wharf serve --shards 1 --send-queue 2KiB",
            // Found by the library, and named as it was written.
            "WHARF_LINKS=0 WHARF_BUFFER_SIZE=8 wharf serve --backlog 0 --shards 1",
            "WHARF_SEND_QUEUE=2KiB wharf serve --shards 1",
            "wharf serve --shards 1 --proxy-from 10.0.0.0/33 --buffer-size 512",
            "WHARF_PROXY_FROM=10.0.0.1,localhost wharf serve --shards 1",
        ],
        3,
    );
    matches("refused-settings", &text);
}

#[test]
fn an_empty_variable_is_as_none() {
    let mut command = wharf(&["serve", "--backend", "epoll", "--listen", "127.0.0.1:0"]);
    let output = run(&mut wharf(&["serve", "--help"]));
    let options = output.stdout.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let options = options.map(|word| word.trim_matches(|c: char| !c.is_ascii_lowercase()));
    let mut count = 0;
    for option in options.filter(|option| !["help", "version"].contains(option)) {
        command.env(format!("WHARF_{}", option.replace('-', "_").to_uppercase()), "");
        count += 1;
    }
    assert!(count >= 16, "{}", output.stdout);
    let mut server = Server::spawn(command.env("WHARF_LOG", "")).expect("epoll");
    server.wait_for_line(" try: ").expect("how to try it");
    assert!(server.log[0].contains("INFO wharf "), "{:?}", server.log);
    server.stop();
    // Its default is an address.
    let output = run(wharf(&["serve", "--links", "0"]).env("WHARF_LISTEN", ""));
    assert!(output.stderr.contains("--links is 0"), "{}", output.stderr);
}

#[test]
fn addresses_in_a_variable_may_have_spaces() {
    let mut command = wharf(&["serve", "--backend", "epoll"]);
    let mut server =
        Server::spawn(command.env("WHARF_LISTEN", " 127.0.0.1:0, [::1]:0 ")).expect("epoll");
    server.wait_for_line(" try: ").expect("how to try it");
    assert_eq!(server.addresses.len(), 2);
    server.stop();
}

#[test]
fn an_unknown_variable_is_told() {
    let command = "WHARF_LINK=3 WHARF_XYZ=1 WHARF_LOG=warning wharf serve --listen 192.0.2.1:9527";
    let mut program = wharf(&["serve", "--listen", "192.0.2.1:9527"]);
    program.envs([("WHARF_LINK", "3"), ("WHARF_XYZ", "1"), ("WHARF_LOG", "warning")]);
    matches("unknown-variables", &transcript(command, &run(&mut program)));
}

/// What it cannot print as it is written, it can run and name.
#[test]
fn a_path_that_is_no_utf_8_is_a_path() {
    let name = format!("wharf-{}-", std::process::id());
    let folder = std::env::temp_dir().join(OsStr::from_bytes(&[name.as_bytes(), b"\xff"].concat()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(OsStr::from_bytes(b"wharf\xff"));
    copy_program(&path);
    for (words, code) in [
        (&["--version"][..], 0),
        (&["serve", "--help"], 0),
        (&[], 2),
        (&["serv"], 2),
        (&["serve", "--zzz"], 2),
        (&["serve", "--links", "many"], 2),
        (&["serve", "--links", "0"], 3),
        (&["serve", "--listen", "192.0.2.1:9527"], 4),
    ] {
        let output = run(&mut clean(Command::new(&path), words));
        assert_eq!(output.code, Some(code), "{words:?}: {}", output.stderr);
        let mut command = clean(Command::new(&path), words);
        let output = run(command.env("WHARF_LINKS", "many"));
        assert!(!output.stderr.contains("panic"), "{words:?}: {}", output.stderr);
    }
    std::fs::remove_dir_all(folder).expect("ours");
}

#[test]
fn an_address_that_is_none_is_bad_configuration() {
    let text = all_refuse(
        &[
            "wharf serve --listen 127.0.0.1",
            "wharf serve --listen [::1]",
            "wharf serve --listen localhost:http",
            "wharf serve --listen 127.0.0.1:65536",
            "wharf serve --listen :9527",
            "wharf serve --listen host/name:9527",
            "wharf serve --listen [::1:9527",
            "wharf serve --listen [localhost]:9527",
            "wharf serve --listen [127.0.0.1]:9527",
            "wharf serve --listen [::g]:80",
            "wharf serve --listen 256.1.1.1:80",
            "wharf serve --listen nohost.invalid:9527 --listen 1.2.3:80",
            "wharf serve --listen=",
            "WHARF_LISTEN=127.0.0.1:0,, wharf serve",
            "WHARF_LISTEN=127.0.0.1 wharf serve",
        ],
        3,
    );
    matches("refused-addresses", &text);
}

#[test]
fn an_address_on_which_no_socket_listens_is_told_with_what_it_is() {
    let many = ["wharf serve --listen 224.0.0.1:9527", "wharf serve --listen 255.255.255.255:9527"];
    matches("refused-addresses-of-many", &all_refuse(&many, 3));
    if TcpListener::bind("[::1]:0").is_err() {
        return lacks("there is no IPv6");
    }
    let text = all_refuse(
        &[
            "wharf serve --listen [ff02::1]:9527",
            "wharf serve --listen [fe80::1]:9527",
            "wharf serve --listen [fe80::1%no-such]:9527",
            "wharf serve --listen [::ffff:127.0.0.1]:9527",
            "WHARF_LISTEN=[::ffff:127.0.0.1]:9527 WHARF_DUAL_STACK=no wharf serve",
        ],
        3,
    );
    matches("refused-addresses-ipv6", &text);
}

/// It may be there in a moment: the network, or the name server.
#[test]
fn a_name_that_cannot_be_looked_up_is_a_system_error() {
    let command = "WHARF_LOG=error wharf serve --listen nohost.invalid:9527";
    let mut program = wharf(&["serve", "--listen", "nohost.invalid:9527"]);
    let output = run(program.env("WHARF_LOG", "error"));
    matches("refused-name", &refuses(command, &output, 4));
}

#[test]
fn a_foreign_address_and_too_little_memory_are_system_errors() {
    let text = all_refuse(
        &[
            // 192.0.2.0/24 is reserved for documentation (RFC 5737).
            "wharf serve --listen 192.0.2.1:9527",
            "wharf serve --buffers 16M --buffer-size 1MiB --send-queue 2MiB",
        ],
        4,
    );
    matches("refused-machine", &text);
}
