//! http: to a client of our own that pipelines, and to curl.

use super::common::{Example, Pieces, check, installed, run};
use super::each_back_end;
use std::process::Command;
use wharf::BackEnd;

each_back_end! {
    http_replies_to_pipelined_requests_until_it_closes,
    http_refuses_what_it_does_not_understand,
    curl_keeps_its_connection,
}

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n";
const NOT_HERE: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot here\n";

fn http_replies_to_pipelined_requests_until_it_closes(back_end: BackEnd) {
    let Some(example) = Example::start("http", back_end) else { return };
    check(&example, |rng| {
        let (mut text, mut replies) = (Vec::new(), String::new());
        let mut open = true;
        for _ in 0..rng.below(40) {
            let (body, close) = (rng.letters(9_000), rng.once_in(20));
            let connection = if close { "Connection: close\r\n" } else { "" };
            let len = body.len();
            let head =
                format!("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n{connection}\r\n");
            text.extend([head.as_bytes(), &body, b"GET / HTTP/1.1\r\n\r\n"].concat());
            if open {
                replies += NOT_HERE;
            }
            open &= !close;
            if open {
                replies += HELLO;
            }
        }
        (text, replies.into_bytes())
    });
    example.stop();
}

fn http_refuses_what_it_does_not_understand(back_end: BackEnd) {
    let Some(example) = Example::start("http", back_end) else { return };
    let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(9_000));
    for (request, status) in [
        ("what\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\ncontent-length: many\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/2\r\n\r\n", "505 HTTP Version Not Supported"),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", "501 Not Implemented"),
        (&long, "431 Request Header Fields Too Large"),
        // The stream ends within a head.
        ("GET / HTT", "400 Bad Request"),
    ] {
        let text = format!("HEAD / HTTP/1.1\r\n\r\n{request}");
        let heard = example.ask(text.as_bytes(), &mut Pieces::ByteByByte);
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n";
        let last = "content-length: 0\r\nconnection: close\r\n\r\n";
        let expected = format!("{head}HTTP/1.1 {status}\r\n{last}");
        assert_eq!(String::from_utf8_lossy(&heard), expected, "{request:.40}");
    }
    // A client of HTTP/1.0, and one that sends nothing.
    let old = "GET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n";
    assert_eq!(example.ask(old.as_bytes(), &mut Pieces::ByteByByte), HELLO.as_bytes());
    assert_eq!(example.ask(b"", &mut Pieces::ByteByByte), b"");
    example.stop();
}

fn curl_keeps_its_connection(back_end: BackEnd) {
    let Some(example) = Example::start("http", back_end) else { return };
    if installed("curl", "--version") {
        let url = |path: &str| format!("http://{}{path}", example.address);
        let curl = |words: &[&str], input: &[u8]| {
            // The last line has the number of connects.
            let ask = ["--silent", "--include", "--write-out", "%{num_connects}\n"];
            run(Command::new("curl").args(ask).args(words), input)
        };
        let heard = curl(&[&url("/"), &url("/x"), &url("/")], b"");
        assert_eq!(heard, format!("{HELLO}1\n{NOT_HERE}0\n{HELLO}0\n"));
        let heard = curl(&["--head", &url("/")], b"");
        assert_eq!(heard, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n1\n");
        // A body that is longer than an input; and a second request on the same connection.
        let (ask, root) = ("--write-out", url("/"));
        let post = ["--header", "Expect:", "--data-binary", "@-", &root];
        let words = [&post[..], &["--next", "-si", ask, "%{num_connects}\n", &root]].concat();
        let heard = curl(&words, &vec![b'x'; 3_000_000]);
        assert_eq!(heard, format!("{HELLO}1\n{HELLO}0\n"));
        let heard = curl(&["--http1.0", &url("/"), &url("/")], b"");
        assert_eq!(heard, format!("{HELLO}1\n{HELLO}1\n"));
    }
    example.stop();
}
