//! HTTP/1.1: says hello, keeps connections alive, replies to pipelined requests in order.

use crate::check;
use wharf_model::{Handler, Input, Link, Result, Verdict};

struct Hello;

#[derive(Default)]
struct Client {
    /// Bytes of a request's body that are still to be discarded.
    body_left: usize,
}

const HEAD_MAX: usize = 400;

impl Handler<Client> for Hello {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<Client> {
        Ok(Client::default())
    }

    fn on_receive(&self, link: &mut Link<'_, Client>, input: &mut Input<'_>) -> Result {
        link.state.body_left -= input.consume(link.state.body_left);
        if link.state.body_left > 0 {
            return Ok(());
        }
        let request = match input.until(b"\r\n\r\n", HEAD_MAX) {
            Ok(Some(head)) => Request::parse(head),
            Ok(None) => return Ok(()),
            Err(_) => Err("431 Request Header Fields Too Large"),
        };
        match request {
            Ok(request) => {
                link.state.body_left = request.body;
                let (status, body) = match (request.method, request.path) {
                    ("GET" | "HEAD", "/") => ("200 OK", "hello\n"),
                    _ => ("404 Not Found", "not here\n"),
                };
                let len = body.len();
                let head = format_args!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\n\r\n");
                link.out.send((head, if request.method == "HEAD" { "" } else { body }))?;
                if !request.keep_alive {
                    link.close();
                }
            }
            Err(status) => {
                write!(
                    link.out,
                    "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )?;
                link.close();
            }
        }
        Ok(())
    }

    fn on_end(&self, link: &mut Link<'_, Client>, input: &mut Input<'_>) -> Result<Verdict> {
        if !input.is_empty() {
            link.out.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")?;
        }
        Ok(Verdict::Close)
    }
}

/// It lies in the input.
struct Request<'a> {
    method: &'a str,
    path: &'a str,
    keep_alive: bool,
    body: usize,
}

impl<'a> Request<'a> {
    fn parse(head: &'a [u8]) -> Result<Self, &'static str> {
        const BAD: &str = "400 Bad Request";
        let mut lines = str::from_utf8(head).map_err(|_| BAD)?.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(path), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(BAD);
        };
        let keep_alive = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            _ => return Err("505 HTTP Version Not Supported"),
        };
        let mut request = Self { method, path, keep_alive, body: 0 };
        for line in lines {
            let (name, value) = line.split_once(':').ok_or(BAD)?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("connection") {
                request.keep_alive &= !value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("content-length") {
                request.body = value.parse().map_err(|_| BAD)?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err("501 Not Implemented");
            }
        }
        Ok(request)
    }
}

pub(crate) fn run(seeds: u64) {
    check(
        seeds,
        || Hello,
        |rng| {
            let (mut text, mut replies) = (Vec::new(), Vec::new());
            let mut open = true;
            for _ in 0..rng.below(40) {
                let body = rng.letters(900);
                let (path, close) = (rng.pick(&["/", "/x"]), rng.once_in(20));
                let connection = if close { "Connection: close\r\n" } else { "" };
                let len = body.len();
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n{connection}\r\n"
                );
                text.extend([head.as_bytes(), &body, b"GET / HTTP/1.1\r\n\r\n"].concat());
                if open {
                    replies
                        .extend(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot here\n");
                }
                open &= !close;
                if open {
                    replies.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n");
                }
            }
            (text, replies)
        },
    );
}
