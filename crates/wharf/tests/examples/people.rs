//! Servers of several clients at a time: chat, push.

use super::common::{Example, Pieces, Rng, installed, read_until, run};
use super::each_back_end;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use wharf::BackEnd;

each_back_end! {
    chat_carries_lines_to_the_others_until_the_server_stops,
    chat_talks_with_nc,
    push_reaches_users_by_name_from_another_thread,
}

fn all_pieces() -> [Pieces; 3] {
    [Pieces::Random(Rng::new(1), 5), Pieces::Random(Rng::new(2), 40), Pieces::ByteByByte]
}

#[track_caller]
fn hears_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the stream ends");
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

/// A guest and the name that the server gave it; the others were told of it.
fn guest(example: &Example, others: &mut [&mut TcpStream]) -> (TcpStream, String) {
    let mut stream = example.connect();
    let welcome = read_until(&mut stream, "\n");
    let name = welcome.strip_prefix("* you are ").unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(welcome, format!("* you are {name}; /nick NAME, /msg NAME TEXT, /quit\n"));
    for other in others {
        assert_eq!(read_until(other, "\n"), format!("* {name} came in\n"));
    }
    (stream, name)
}

fn chat_carries_lines_to_the_others_until_the_server_stops(back_end: BackEnd) {
    for mut pieces in all_pieces() {
        let Some(example) = Example::start("chat", back_end) else { return };
        let (mut ann, first) = guest(&example, &mut []);
        let (mut bob, second) = guest(&example, &mut [&mut ann]);
        let (mut eve, third) = guest(&example, &mut [&mut ann, &mut bob]);
        let mut say = |who: &mut TcpStream, text: &str| pieces.write(who, text.as_bytes()).unwrap();

        say(&mut ann, "/nick ann\nhello\r\n\nhow are you?\n");
        for other in [&mut bob, &mut eve] {
            assert_eq!(read_until(other, "\n"), format!("* {first} is now ann\n"));
            assert_eq!(read_until(other, "\n"), "ann: hello\n");
            assert_eq!(read_until(other, "\n"), "ann: how are you?\n");
        }
        say(&mut bob, "/nick ann\n/nick b-b\n/msg eve psst\n/msg ann to you alone\n");
        assert_eq!(read_until(&mut bob, "\n"), "* that name is taken\n");
        assert_eq!(read_until(&mut bob, "\n"), "* a name has 1 to 20 letters and digits\n");
        assert_eq!(read_until(&mut bob, "\n"), "* there is no eve\n");
        assert_eq!(read_until(&mut ann, "\n"), format!("{second} -> to you alone\n"));

        // Lines before the end are delivered, those after it are not.
        say(&mut bob, "bye\n/quit\nnot heard\n");
        assert_eq!(read_until(&mut bob, "\n"), "* goodbye\n");
        hears_end(&mut bob);
        drop(bob);
        for other in [&mut ann, &mut eve] {
            assert_eq!(read_until(other, "\n"), format!("{second}: bye\n"));
            assert_eq!(read_until(other, "\n"), format!("* {second} left (handler_closed)\n"));
        }
        // A line without an end.
        let (mut max, fourth) = guest(&example, &mut [&mut ann, &mut eve]);
        say(&mut max, &"x".repeat(1_026));
        hears_end(&mut max);
        drop(max);
        for other in [&mut ann, &mut eve] {
            assert_eq!(read_until(other, "\n"), format!("* {fourth} left (limit)\n"));
        }
        drop(ann);
        assert_eq!(read_until(&mut eve, "\n"), "* ann left (peer_closed)\n");
        let (mut fay, _) = guest(&example, &mut [&mut eve]);
        // The name is free again soon after its link has ended: only then the message has no
        // receiver.
        loop {
            say(&mut eve, "/msg ann are you there?\n/nick -\n");
            let is_free = read_until(&mut eve, "\n") == "* there is no ann\n";
            if is_free {
                assert!(read_until(&mut eve, "\n").starts_with("* a name has 1 to 20"));
                break;
            }
        }
        say(&mut eve, "/nick ann\n");
        assert_eq!(read_until(&mut fay, "\n"), format!("* {third} is now ann\n"));

        example.stop_while(|| {
            for mut stream in [eve, fay] {
                assert_eq!(read_until(&mut stream, "\n"), "* the server stops: goodbye\n");
                hears_end(&mut stream);
            }
        });
    }
}

fn chat_talks_with_nc(back_end: BackEnd) {
    let Some(example) = Example::start("chat", back_end) else { return };
    if installed("nc", "-h") {
        let (mut ann, _) = guest(&example, &mut []);
        let mut nc = Command::new("nc");
        nc.args(["-N", "127.0.0.1", &example.port()]);
        let heard = run(&mut nc, b"/nick zoe\nhello from nc\n/quit\n");
        let welcome = read_until(&mut ann, "\n");
        let name = welcome.strip_prefix("* ").and_then(|rest| rest.strip_suffix(" came in\n"));
        let name = name.expect("it came in");
        let first = format!("* you are {name}; /nick NAME, /msg NAME TEXT, /quit\n");
        assert_eq!(heard, first + "* goodbye\n");
        for line in [
            &format!("* {name} is now zoe\n"),
            "zoe: hello from nc\n",
            "* zoe left (handler_closed)\n",
        ] {
            assert_eq!(read_until(&mut ann, "\n"), line);
        }
    }
    example.stop();
}

fn push_reaches_users_by_name_from_another_thread(back_end: BackEnd) {
    for mut pieces in all_pieces() {
        let Some(mut example) = Example::start("push", back_end) else { return };
        let mut stdin = example.stdin.take().unwrap();
        let (mut ann, mut bob) = (example.connect(), example.connect());
        pieces.write(&mut ann, b"HELLO\nLOGIN ann\nLOGIN bob\n").unwrap();
        for reply in ["ERR\n", "OK\n", "ERR\n"] {
            assert_eq!(read_until(&mut ann, "\n"), reply);
        }
        pieces.write(&mut bob, b"LOGIN bob\r\n").unwrap();
        assert_eq!(read_until(&mut bob, "\n"), "OK\n");
        stdin.write_all(b"ann good morning\nnobody psst\nbob 1\nann 2\nbob\n").unwrap();
        for (user, pushes) in
            [(&mut ann, ["PUSH good morning\n", "PUSH 2\n"]), (&mut bob, ["PUSH 1\n", "PUSH \n"])]
        {
            assert_eq!(pushes.map(|_| read_until(user, "\n")), pushes);
        }
        // The same user with a new phone.
        let mut phone = example.connect();
        pieces.write(&mut phone, b"LOGIN ann\n").unwrap();
        assert_eq!(read_until(&mut phone, "\n"), "OK\n");
        hears_end(&mut ann);
        drop(ann);
        stdin.write_all(b"ann again\n").unwrap();
        assert_eq!(read_until(&mut phone, "\n"), "PUSH again\n");
        // All of many pushes arrive, in order, at a client that reads.
        for n in 0..100 {
            stdin.write_all(format!("bob {n}\n").as_bytes()).unwrap();
        }
        for n in 0..100 {
            assert_eq!(read_until(&mut bob, "\n"), format!("PUSH {n}\n"));
        }
        example.stop_while(|| [bob, phone].iter_mut().for_each(hears_end));
    }
}
