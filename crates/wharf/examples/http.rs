//! HTTP/1.1: says hello, keeps connections alive, replies to pipelined requests in order.
use wharf::{Handler, Input, Link, Result, Server, Verdict};

struct Hello;

#[derive(Default)]
struct Client {
    /// Bytes of a request's body that are still to be discarded.
    body_left: usize,
}

const HEAD_MAX: usize = 8 << 10;
const LAST: &str = "\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

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
                    ("GET" | "HEAD" | "POST", "/") => ("200 OK", "hello\n"),
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
                write!(link.out, "HTTP/1.1 {status}{LAST}")?;
                link.close();
            }
        }
        Ok(())
    }

    fn on_end(&self, link: &mut Link<'_, Client>, input: &mut Input<'_>) -> Result<Verdict> {
        if !input.is_empty() {
            write!(link.out, "HTTP/1.1 400 Bad Request{LAST}")?;
        }
        Ok(Verdict::Close)
    }
}

/// The parts of a request, in the input.
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

fn main() -> Result {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    Server::builder(Hello).listen(address).serve()
}
