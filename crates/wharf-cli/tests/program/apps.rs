//! What each app answers, over real sockets, to clients that are std's.

use super::common::{Server, read_until};
use super::each_back_end;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

each_back_end! {
    echo_gives_back_what_it_gets,
    discard_swallows_and_answers_nothing,
    chargen_sends_the_pattern_of_the_rfc,
    chargen_fits_buffers_and_outputs_of_any_size,
    chargen_waits_for_a_client_that_does_not_read,
    chat_is_a_conversation,
    chat_ends_a_line_without_end,
    chat_strips_what_commands_a_terminal,
    chat_cannot_be_given_a_taken_or_ugly_name,
    several_addresses_are_served,
}

fn echo_gives_back_what_it_gets(back_end: &str) {
    let Some(server) = Server::start(back_end, &[]) else { return };
    let mut link = server.connect();
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = link.try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).expect("it reads");
            writer.shutdown(Shutdown::Write).expect("open");
        });
        let mut received = Vec::new();
        link.read_to_end(&mut received).expect("it answers and closes");
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    });
    server.stop();
}

fn discard_swallows_and_answers_nothing(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "discard"]) else { return };
    let mut link = server.connect();
    link.write_all(&vec![7; 5_000_000]).expect("it reads");
    link.shutdown(Shutdown::Write).expect("open");
    let mut received = Vec::new();
    assert_eq!(link.read_to_end(&mut received).expect("it closes in good order"), 0);
    server.stop();
}

fn chargen_sends_the_pattern_of_the_rfc(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chargen"]) else { return };
    let mut link = server.connect();
    link.write_all(b"this is thrown away").expect("it reads");
    let first_ten = [
        r##" !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefg"##,
        r##"!"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefgh"##,
        r##""#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghi"##,
        r##"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghij"##,
        r##"$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijk"##,
        r##"%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijkl"##,
        r##"&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklm"##,
        r##"'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmn"##,
        r##"()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmno"##,
        r##")*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnop"##,
    ];
    for line in first_ten {
        assert_eq!(read_until(&mut link, "\r\n"), format!("{line}\r\n"));
    }
    // The rest of 10,000 lines by the rule that the RFC gives.
    let mut lines = vec![0; 74 * 9_990];
    link.read_exact(&mut lines).expect("it goes on");
    for (number, line) in (10..).zip(lines.chunks(74)) {
        let ring = (b' '..=b'~').cycle().skip(number % 95).take(72);
        assert!(line.iter().copied().eq(ring.chain(*b"\r\n")), "line {number}");
    }
    drop(link);
    server.stop();
}

fn chargen_fits_buffers_and_outputs_of_any_size(back_end: &str) {
    let few = ["--app", "chargen", "--links", "8", "--shards", "1"];
    for sizes in [
        &["--buffer-size", "64", "--send-queue", "128"][..],
        &["--buffer-size", "100", "--send-queue", "1MiB"],
        &["--buffer-size", "1MiB", "--send-queue", "2MiB", "--buffers", "40"],
        &["--grant", "64KiB"],
    ] {
        let Some(server) = Server::start(back_end, &[&few, sizes].concat()) else { return };
        let mut link = server.connect();
        let mut lines = vec![0; 74 * 1_000];
        link.read_exact(&mut lines).expect("it goes on");
        for (number, line) in lines.chunks(74).enumerate() {
            let ring = (b' '..=b'~').cycle().skip(number % 95).take(72);
            assert!(line.iter().copied().eq(ring.chain(*b"\r\n")), "{sizes:?}, line {number}");
        }
        drop(link);
        server.stop();
    }
}

fn chargen_waits_for_a_client_that_does_not_read(back_end: &str) {
    let small = ["--app", "chargen", "--links", "8", "--buffers", "40", "--shards", "1"];
    let short = ["--input-bytes", "8KiB", "--send-queue", "16KiB"];
    let small = [&small[..], &short].concat();
    let Some(server) = Server::start(back_end, &small) else { return };
    let lazy: Vec<TcpStream> = (0..4).map(|_| server.connect()).collect();
    let mut busy = server.connect();
    let mut lines = vec![0; 74 * 20_000];
    busy.read_exact(&mut lines).expect("the others do not hold it up");
    for mut link in lazy {
        // What they left is still there, from its first byte on.
        assert!(read_until(&mut link, "\r\n").starts_with(" !\"#$"));
    }
    drop(busy);
    server.stop();
}

/// A client of chat that has read its welcome.
fn guest(server: &Server) -> TcpStream {
    let mut link = server.connect();
    read_until(&mut link, "all else goes to everybody\r\n");
    link
}

fn say(link: &mut TcpStream, line: &str) {
    link.write_all(line.as_bytes()).expect("it reads");
}

fn chat_is_a_conversation(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let mut first = server.connect();
    let welcome = read_until(&mut first, "everybody\r\n");
    assert!(welcome.starts_with("* welcome; you are guest-1, with 0 others here"), "{welcome}");
    let mut second = guest(&server);
    assert_eq!(read_until(&mut first, "\r\n"), "* guest-2 is here\r\n");
    let mut third = guest(&server);
    for link in [&mut first, &mut second] {
        assert_eq!(read_until(link, "\r\n"), "* guest-3 is here\r\n");
    }

    // LF and CRLF, lines in pieces, several lines at once.
    say(&mut first, "/nick 李雷\r\n");
    assert_eq!(read_until(&mut first, "\r\n"), "* you are now 李雷\r\n");
    for link in [&mut second, &mut third] {
        assert_eq!(read_until(link, "\r\n"), "* guest-1 is now 李雷\r\n");
    }
    say(&mut first, "hel");
    say(&mut first, "lo\nhow are you?\n");
    for link in [&mut second, &mut third] {
        assert_eq!(read_until(link, "\r\n"), "李雷: hello\r\n");
        assert_eq!(read_until(link, "\r\n"), "李雷: how are you?\r\n");
    }
    say(&mut second, "/who\n");
    assert_eq!(read_until(&mut second, "\r\n"), "* 3 here: guest-2 guest-3 李雷\r\n");
    say(&mut second, "/dance\n");
    assert!(read_until(&mut second, "\r\n").contains("/nick NAME, /who and /quit"));

    // What was said before the end is heard before it, and nothing after.
    say(&mut second, "bye\n/quit\nnot heard\n");
    assert_eq!(read_until(&mut second, "\r\n"), "* goodbye, guest-2\r\n");
    assert_eq!(second.read(&mut [0]).expect("it closes in good order"), 0);
    drop(second);
    for link in [&mut first, &mut third] {
        assert_eq!(read_until(link, "\r\n"), "guest-2: bye\r\n");
        assert_eq!(read_until(link, "\r\n"), "* guest-2 has left\r\n");
    }
    drop(third);
    assert_eq!(read_until(&mut first, "\r\n"), "* guest-3 has left\r\n");
    say(&mut first, "/who\n");
    assert_eq!(read_until(&mut first, "\r\n"), "* 1 here: 李雷\r\n");
    drop(first);
    server.stop();
}

fn chat_ends_a_line_without_end(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let mut link = guest(&server);
    say(&mut link, &"x".repeat(1_024));
    say(&mut link, "\n");
    say(&mut link, "/who\n");
    assert_eq!(read_until(&mut link, "\r\n"), "* 1 here: guest-1\r\n");
    say(&mut link, &"x".repeat(1_025));
    let last = read_until(&mut link, "\r\n");
    assert_eq!(last, "* that line is longer than 1,024 bytes: goodbye\r\n");
    assert_eq!(link.read(&mut [0]).expect("it closes in good order"), 0);
    server.stop();
}

fn chat_strips_what_commands_a_terminal(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let (mut ann, mut bob) = (guest(&server), guest(&server));
    read_until(&mut ann, "is here\r\n");
    bob.write_all(b"\x1b]0;title\x07\x1b[2Jhi\xfe \xe2\x80\xaethere\r\n").expect("it reads");
    assert_eq!(read_until(&mut ann, "\r\n"), "guest-2: ]0;title[2Jhi\u{FFFD} there\r\n");
    drop((ann, bob));
    server.stop();
}

fn chat_cannot_be_given_a_taken_or_ugly_name(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let (mut ann, mut bob) = (guest(&server), guest(&server));
    read_until(&mut ann, "is here\r\n");
    say(&mut ann, "/nick Ann\n");
    read_until(&mut ann, "now Ann\r\n");
    read_until(&mut bob, "now Ann\r\n");
    for (name, answer) in [
        ("ANN", "* that name is taken\r\n"),
        ("", "* say which name: /nick NAME\r\n"),
        ("two words", "* a name has visible characters only, and no spaces\r\n"),
        ("123456789012345678901", "* a name has at most 20 characters\r\n"),
        ("*", "* a name does not begin with / or *\r\n"),
    ] {
        say(&mut bob, &format!("/nick {name}\n"));
        assert_eq!(read_until(&mut bob, "\r\n"), answer);
    }
    drop((ann, bob));
    server.stop();
}

fn several_addresses_are_served(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--listen", "[::1]:0"]) else { return };
    assert_eq!(server.addresses.len(), 2);
    assert!(server.addresses[1].is_ipv6());
    for address in &server.addresses {
        let mut link = TcpStream::connect(address).expect("it listens there");
        link.write_all(b"hello").expect("it reads");
        let mut answer = [0; 5];
        link.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, b"hello");
    }
    server.stop();
}
