//! Promise: `on_connect` makes a link's state, which is dropped after `on_disconnect`, once; the
//! server calls its handler when it starts and when all its threads have ended; a link knows its
//! origin.
//!
//! Method: states that count themselves, and a log of the callbacks.

use crate::util;
use crate::util::functions::functions;
use crate::util::{
    Case, Mutex, ON_PURPOSE, TestServer, each_back_end, eventually, expect_bytes, expect_end,
    finish, meanwhile, now, on_receive, reset, round_trip, silence_panics_on_purpose,
};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wharf::{
    Address, DisconnectReason, Error, Handle, Handler, Input, Link, LinkId, ListenerId, Origin,
    PostError, Result, Verdict, Worker,
};

each_back_end!(
    on_connect_makes_the_state_and_its_link_keeps_it,
    a_state_is_dropped_once_after_on_disconnect,
    a_refused_link_has_no_state,
    the_server_tells_when_it_starts_and_when_the_last_of_it_is_gone,
    a_server_that_no_thread_waits_for_tells_when_the_last_of_it_is_gone,
    a_server_does_not_listen_before_its_handler_has_started,
    a_thread_that_on_start_started_posts_until_the_server_stops,
    a_server_whose_start_fails_later_tells_that_it_stopped,
    a_handler_may_be_kept_by_the_program,
    a_handler_around_another_lends_it_a_part_of_the_state,
    a_link_knows_its_ends_its_worker_and_its_time,
    a_link_knows_the_listener_that_accepted_it,
    ids_are_of_one_link_of_one_server,
);

type Ids = Arc<Mutex<Vec<LinkId>>>;

/// A state that logs its creation and its drop. It has no default: only `on_connect` can make it.
struct Counted {
    id: LinkId,
    live: Ids,
    ended: Ids,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let is_ended = self.ended.lock().unwrap().contains(&self.id);
        let mut live = self.live.lock().unwrap();
        let at = live.iter().position(|id| *id == self.id);
        assert!(is_ended && at.is_some(), "dropped twice, or before on_disconnect");
        live.swap_remove(at.unwrap());
    }
}

#[derive(Default)]
struct Counting {
    live: Ids,
    ended: Ids,
}

impl Handler<Counted> for Counting {
    fn on_connect(&self, link: &mut Link<'_>) -> Result<Counted> {
        self.live.lock().unwrap().push(link.id());
        let (live, ended) = (Arc::clone(&self.live), Arc::clone(&self.ended));
        Ok(Counted { id: link.id(), live, ended })
    }

    fn on_receive(&self, link: &mut Link<'_, Counted>, input: &mut Input<'_>) -> Result {
        assert_eq!(link.state.id, link.id());
        match input.chunk() {
            b"panic" => std::panic::panic_any(ON_PURPOSE),
            b"error" => return Err(Error::msg("on purpose")),
            _ => input.forward(&mut link.out),
        };
        Ok(())
    }

    fn on_disconnect(&self, link: &mut Link<'_, Counted>, _: DisconnectReason) {
        assert!(self.live.lock().unwrap().contains(&link.id()), "dropped before on_disconnect");
        self.ended.lock().unwrap().push(link.state.id);
    }
}

fn on_connect_makes_the_state_and_its_link_keeps_it(case: &Case) {
    for shards in [1, 3] {
        let number = AtomicU64::new(1);
        let handler = functions::<u64>()
            .on_connect(move |link| {
                let number = number.fetch_add(1, Ordering::SeqCst);
                link.out.send(number.to_le_bytes())?;
                Ok(number)
            })
            .on_receive(|link, input| {
                input.consume(usize::MAX);
                *link.state += 1_000;
                Ok(link.out.send(link.state.to_le_bytes())?)
            });
        let server = TestServer::start(case.builder(handler).shards(shards).links_max(30));
        let mut clients: Vec<_> = (0..20).map(|_| (server.connect(), 0)).collect();
        for (client, number) in &mut clients {
            let mut bytes = [0; 8];
            client.read_exact(&mut bytes).unwrap();
            *number = u64::from_le_bytes(bytes);
        }
        for round in 1..=3 {
            for (client, number) in &mut clients {
                client.write_all(b"?").unwrap();
                expect_bytes(client, &(*number + 1_000 * round).to_le_bytes());
            }
        }
        let mut numbers: Vec<u64> = clients.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(1..=20));
        drop(clients);
        server.stop();
    }
}

fn a_state_is_dropped_once_after_on_disconnect(case: &Case) {
    silence_panics_on_purpose();
    for shards in [1, 3] {
        let handler = Counting::default();
        let (live, ended) = (Arc::clone(&handler.live), Arc::clone(&handler.ended));
        let builder = case.short(handler).shards(shards).links_max(12).buffer_count(200);
        let server = TestServer::start(builder);
        for n in 0..120 {
            let mut client = server.connect();
            round_trip(&mut client, b"hello");
            let id = live.lock().unwrap()[0];
            match n % 6 {
                0 => finish(&mut client),
                1 => reset(client),
                2 => {
                    server.handle.link(id).close();
                    expect_end(&mut client);
                    drop(client);
                }
                3 => server.handle.link(id).abort(),
                4 => client.write_all(b"panic").unwrap(),
                _ => {
                    client.write_all(b"error").unwrap();
                    expect_end(&mut client);
                    drop(client);
                }
            }
            eventually(|| live.lock().unwrap().is_empty(), "the state is dropped");
            assert_eq!(ended.lock().unwrap().len(), n + 1);
        }
        // At a stop, too.
        let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
        assert_eq!(live.lock().unwrap().len(), 6);
        server.handle.stop(Duration::from_secs(5));
        clients.iter_mut().for_each(expect_end);
        drop(clients);
        let stats = server.stop();
        assert!(live.lock().unwrap().is_empty());
        assert_eq!(stats.handler_panics, 20, "but those on purpose");
    }
}

fn a_refused_link_has_no_state(case: &Case) {
    let (made, dropped) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    struct Made(Arc<AtomicU64>);
    impl Drop for Made {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (makes, drops) = (Arc::clone(&made), Arc::clone(&dropped));
    let handler = functions::<Option<Made>>().on_connect(move |link| {
        let number = makes.fetch_add(1, Ordering::SeqCst);
        // A state that it has made is dropped as any other value.
        let state = Made(Arc::clone(&drops));
        if number % 2 == 1 {
            link.out.send("no")?;
            return Err(Error::msg("every other one"));
        }
        Ok(Some(state))
    });
    let (handler, record, _) = handler.watched();
    let server = TestServer::start(case.small(handler).links_max(1));
    for n in 1..=20 {
        finish(&mut server.connect());
        eventually(|| record.ends().len() == n, "it has ended");
        let mut refused = server.connect();
        refused.shutdown(std::net::Shutdown::Write).unwrap();
        expect_bytes(&mut refused, b"no");
        expect_end(&mut refused);
        server.wait_for_links(0);
    }
    server.stop();
    assert_eq!((made.load(Ordering::SeqCst), dropped.load(Ordering::SeqCst)), (40, 40));
}

/// A handler that logs its calls, with states and contexts that do the same.
struct Noting {
    log: Log,
    address: Option<SocketAddr>,
    fails_in: &'static str,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<&'static str>>>);

impl Log {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|noted| **noted == what).count()
    }

    /// Repeated entries count as one.
    fn shortly(&self) -> Vec<&'static str> {
        let mut all = self.0.lock().unwrap().clone();
        all.dedup();
        all
    }
}

struct Noted(Log, &'static str);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

impl Handler<Noted, Noted> for Noting {
    fn on_start(&self, server: &Handle) -> Result {
        self.log.note("on_start");
        assert_eq!((server.stats().links, server.is_stopping()), (0, false));
        if self.address.is_some_and(|address| TcpStream::connect(address).is_ok()) {
            self.log.note("listens");
        }
        if self.fails_in == "on_start" { Err(Error::msg("not today")) } else { Ok(()) }
    }

    fn on_stop(&self, server: &Handle) {
        self.log.note("on_stop");
        assert_eq!(server.stats().links, 0);
        assert!(server.all().try_post("too late").is_err());
    }

    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<Noted> {
        let () = worker.context;
        assert!(worker.id().index() < worker.count() && !worker.server.is_stopping());
        if self.fails_in == "on_worker_start" && worker.id().index() == 0 {
            return Err(Error::msg("not today"));
        }
        self.log.note("on_worker_start");
        Ok(Noted(self.log.clone(), "the context is dropped"))
    }

    fn on_connect(&self, _: &mut Link<'_, (), Noted>) -> Result<Noted> {
        self.log.note("on_connect");
        Ok(Noted(self.log.clone(), "the state is dropped"))
    }

    fn on_receive(&self, link: &mut Link<'_, Noted, Noted>, input: &mut Input<'_>) -> Result {
        input.forward(&mut link.out);
        Ok(())
    }

    fn on_disconnect(&self, _: &mut Link<'_, Noted, Noted>, _: DisconnectReason) {
        self.log.note("on_disconnect");
    }
}

fn noting(fails_in: &'static str) -> (Noting, Log) {
    let log = Log::default();
    (Noting { log: log.clone(), address: None, fails_in }, log)
}

fn the_server_tells_when_it_starts_and_when_the_last_of_it_is_gone(case: &Case) {
    for shards in [1, 2, 3, 8] {
        let (handler, log) = noting("");
        let builder = case.short(handler).shards(shards).links_max(16).buffer_count(400);
        let server = TestServer::start(builder);
        let started = log.shortly();
        assert_eq!(started, ["on_start", "on_worker_start"]);
        assert_eq!(log.count("on_worker_start"), shards as usize);
        let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
        server.handle.stop(Duration::from_secs(5));
        clients.iter_mut().for_each(expect_end);
        assert_eq!((log.count("on_start"), log.count("on_stop")), (1, 0));
        drop(clients);
        server.stop();
        let ended = log.shortly();
        assert_eq!(ended.last(), Some(&"on_stop"), "{ended:?}");
        for what in ["on_start", "on_stop"] {
            assert_eq!(log.count(what), 1, "{ended:?}");
        }
        for what in ["on_connect", "on_disconnect", "the state is dropped"] {
            assert_eq!(log.count(what), 10, "{ended:?}");
        }
        assert_eq!(log.count("the context is dropped"), shards as usize, "{ended:?}");
    }
    // On one shard the order of all is certain.
    let (handler, log) = noting("");
    let server = TestServer::start(case.small(handler));
    let mut client = server.connect();
    round_trip(&mut client, b"hello");
    finish(&mut client);
    server.stop();
    let expected = [
        "on_start",
        "on_worker_start",
        "on_connect",
        "on_disconnect",
        "the state is dropped",
        "the context is dropped",
        "on_stop",
    ];
    assert_eq!(log.shortly(), expected);
}

fn a_server_that_no_thread_waits_for_tells_when_the_last_of_it_is_gone(case: &Case) {
    let (handler, log) = noting("");
    let running = case.small(handler).start().unwrap();
    let (handle, address) = (running.handle(), running.local_addresses()[0].1.clone());
    // Its drop does not stop the server.
    drop(running);
    let mut client = util::connect(address.socket_addr().unwrap());
    round_trip(&mut client, b"hello");
    meanwhile(Duration::from_millis(50), || log.count("on_stop") == 0, "it serves");
    handle.stop(Duration::from_secs(5));
    expect_end(&mut client);
    drop(client);
    eventually(|| log.count("on_stop") == 1, "on_stop is called");
    assert_eq!(log.shortly().last(), Some(&"on_stop"));
    assert_eq!(log.count("the context is dropped"), 1);
}

fn a_server_does_not_listen_before_its_handler_has_started(case: &Case) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut handler, log) = noting("");
    handler.address = Some(free);
    let server = TestServer::start(case.small(handler).listen(free.to_string()));
    assert_eq!(log.count("listens"), 0);
    finish(&mut util::connect(free));
    server.stop();
}

/// Posts to all links, from a thread of its own.
#[derive(Default)]
struct Feeding {
    thread: Mutex<Option<JoinHandle<u64>>>,
    posted: AtomicU64,
}

impl Handler for Feeding {
    fn on_start(&self, server: &Handle) -> Result {
        let server = server.clone();
        let feed = move || {
            let mut posted = 0;
            loop {
                match server.all().try_post("news ") {
                    Ok(()) => posted += 1,
                    Err(PostError::Full) => {}
                    Err(error) => {
                        assert!([PostError::Stopping, PostError::Closed].contains(&error));
                        assert!(server.is_stopping());
                        return posted;
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let thread = std::thread::Builder::new().spawn(feed)?;
        self.thread.lock().unwrap().replace(thread);
        Ok(())
    }

    fn on_stop(&self, _: &Handle) {
        let thread = self.thread.lock().unwrap().take().unwrap();
        self.posted.store(thread.join().unwrap(), Ordering::SeqCst);
    }

    fn on_receive(&self, _: &mut Link<'_>, input: &mut Input<'_>) -> Result {
        input.consume(usize::MAX);
        Ok(())
    }
}

fn a_thread_that_on_start_started_posts_until_the_server_stops(case: &Case) {
    for shards in [1, 2] {
        let handler = Arc::new(Feeding::default());
        let builder = case.short(Arc::clone(&handler)).shards(shards);
        let server = TestServer::start(builder.links_max(8).buffer_count(200));
        let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
        for client in &mut clients {
            expect_bytes(client, b"news news ");
        }
        server.handle.stop(Duration::from_secs(5));
        for client in &mut clients {
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).unwrap();
            assert!(rest == b"news ".repeat(rest.len() / 5), "half a post");
        }
        drop(clients);
        server.stop();
        assert!(handler.posted.load(Ordering::SeqCst) >= 2);
    }
}

fn a_server_whose_start_fails_later_tells_that_it_stopped(case: &Case) {
    for shards in [1, 3] {
        let (handler, log) = noting("on_worker_start");
        let builder = case.short(handler).shards(shards).links_max(8).buffer_count(200);
        assert!(builder.start().is_err());
        let all = log.shortly();
        assert_eq!((all.first(), all.last()), (Some(&"on_start"), Some(&"on_stop")), "{all:?}");
        assert_eq!((log.count("on_start"), log.count("on_stop")), (1, 1));
        assert_eq!(log.count("on_worker_start"), log.count("the context is dropped"));
    }
    let (handler, log) = noting("on_start");
    assert!(case.small(handler).start().is_err());
    assert_eq!(log.shortly(), ["on_start"]);
    // Errors of settings and addresses are found before `on_start`.
    let (handler, log) = noting("");
    assert!(case.small(handler).links_max(0).start().is_err());
    let (handler, more) = noting("");
    assert!(case.small(handler).listen("nowhere").start().is_err());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (handler, taken_log) = noting("");
    let taken = taken.local_addr().unwrap().to_string();
    assert!(case.small(handler).listen(taken).start().is_err());
    let all = [log, more].map(|log| log.shortly());
    assert!(all.iter().all(Vec::is_empty), "{all:?}");
    let all = taken_log.shortly();
    assert!(all.is_empty() || all == ["on_start", "on_stop"], "{all:?}");
}

/// Counts its calls.
#[derive(Default)]
struct Kept {
    calls: AtomicU64,
}

impl Handler<u64> for Kept {
    fn on_connect(&self, _: &mut Link<'_>) -> Result<u64> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(0)
    }

    fn on_receive(&self, link: &mut Link<'_, u64>, input: &mut Input<'_>) -> Result {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if input.chunk() == b"idle" {
            link.set_idle_timeout(Duration::from_millis(50));
        }
        link.out.notify();
        input.consume(usize::MAX);
        Ok(link.out.send("r")?)
    }

    fn on_writable(&self, link: &mut Link<'_, u64>) -> Result {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(link.out.send("w")?)
    }

    fn on_idle(&self, link: &mut Link<'_, u64>) -> Result<Verdict> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        link.set_idle_timeout(Duration::ZERO);
        link.out.send("i")?;
        Ok(Verdict::Keep)
    }

    fn on_end(&self, link: &mut Link<'_, u64>, _: &mut Input<'_>) -> Result<Verdict> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        link.out.send("e")?;
        Ok(Verdict::Keep)
    }

    fn on_drain(&self, link: &mut Link<'_, u64>) -> Result<Verdict> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        link.out.send("d")?;
        Ok(Verdict::Close)
    }

    fn on_disconnect(&self, _: &mut Link<'_, u64>, _: DisconnectReason) {
        self.calls.fetch_add(1, Ordering::SeqCst);
    }
}

/// Each callback reaches it.
fn a_handler_may_be_kept_by_the_program(case: &Case) {
    let kept = Arc::new(Kept::default());
    let server = TestServer::start(case.small(Arc::clone(&kept)));
    let mut client = server.connect();
    client.write_all(b"idle").unwrap();
    expect_bytes(&mut client, b"rwi");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    expect_bytes(&mut client, b"e");
    server.handle.stop(Duration::from_secs(5));
    expect_bytes(&mut client, b"d");
    expect_end(&mut client);
    server.stop();
    assert_eq!(kept.calls.load(Ordering::SeqCst), 7);
    assert_eq!(Arc::strong_count(&kept), 1, "the server keeps nothing of it");
}

/// Counts the calls of another handler.
struct Wrapping<H>(H);

impl<H, S, W> Handler<(u64, S), W> for Wrapping<H>
where
    H: Handler<S, W>,
    S: Send + 'static,
    W: 'static,
{
    fn on_worker_start(&self, worker: &mut Worker<'_>) -> Result<W> {
        self.0.on_worker_start(worker)
    }

    fn on_connect(&self, link: &mut Link<'_, (), W>) -> Result<(u64, S)> {
        Ok((0, self.0.on_connect(link)?))
    }

    fn on_receive(&self, link: &mut Link<'_, (u64, S), W>, input: &mut Input<'_>) -> Result {
        link.state.0 += 1;
        let (id, calls) = (link.id(), link.state.0);
        let mut inner = link.with_state(|(_, state)| state);
        assert_eq!(inner.id(), id);
        self.0.on_receive(&mut inner, input)?;
        Ok(write!(link.out, "({calls})")?)
    }
}

fn a_handler_around_another_lends_it_a_part_of_the_state(case: &Case) {
    let inner = functions::<u64>().on_receive(|link, input| {
        let Some(line) = input.line(10)? else { return Ok(()) };
        *link.state += std::str::from_utf8(line)?.parse::<u64>()?;
        if *link.state > 100 {
            link.close();
        }
        Ok(write!(link.out, "{}", link.state)?)
    });
    let server = TestServer::start(case.small(Wrapping(inner)));
    let mut client = server.connect();
    client.write_all(b"20\n30\n60\n1\n").unwrap();
    // The requests of the inner handler are applied, though it has a link value of its own.
    expect_bytes(&mut client, b"20(1)50(2)");
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() || rest == b"110", "{rest:?}");
    server.stop_within(Duration::from_secs(5));
}

fn a_link_knows_its_ends_its_worker_and_its_time(case: &Case) {
    let start = now();
    let handler = functions::<Option<Instant>>().on_receive(move |link, input| {
        let Some(_) = input.line(10)? else { return Ok(()) };
        let before = link.state.replace(link.now()).unwrap_or(start);
        let (turn, here) = (link.now(), now());
        assert!(turn >= before, "{:?} before an earlier turn", before - turn);
        assert!(turn <= here, "{:?} in the future", turn - here);
        let (peer, local) = (link.peer(), link.local());
        assert_eq!(peer, Address::Inet(peer.socket_addr().unwrap()));
        assert_eq!((peer.ip(), peer.port()), {
            let peer = peer.socket_addr().unwrap();
            (Some(peer.ip()), Some(peer.port()))
        });
        assert!(matches!(link.origin(), Origin::Accepted { listener: ListenerId(0), .. }));
        let worker = link.worker_id();
        Ok(writeln!(link.out, "{peer} {local} {worker} {}", worker.index())?)
    });
    let server = TestServer::start(case.builder(handler).shards(3).links_max(30));
    assert_eq!(server.handle.workers().map(wharf::WorkerId::index).collect::<Vec<_>>(), [0, 1, 2]);
    let mut seen = std::collections::BTreeMap::new();
    let clients: Vec<_> = (0..12).map(|_| server.connect()).collect();
    for mut client in &clients {
        let mut lines = std::io::BufReader::new(client);
        for _ in 0..2 {
            client.write_all(b"\n").unwrap();
            let mut line = String::new();
            std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            let own = client.local_addr().unwrap().to_string();
            assert_eq!(words[..2], [own, server.address.to_string()]);
            assert_eq!(words[2], words[3]);
            *seen.entry(words[3].to_owned()).or_insert(0) += 1;
        }
    }
    // Each worker has as many.
    assert!(seen.into_iter().eq(["0", "1", "2"].map(|worker| (worker.to_owned(), 8))));
    drop(clients);
    server.stop();
}

fn a_link_knows_the_listener_that_accepted_it(case: &Case) {
    let handler = on_receive(|link, input| {
        let Some(_) = input.line(10)? else { return Ok(()) };
        match link.origin() {
            Origin::Accepted { listener, .. } => Ok(writeln!(link.out, "{}", listener.0)?),
            other => Err(Error::msg(format!("{other:?}"))),
        }
    });
    let builder = case.small(handler).listen_as(ListenerId(7), "127.0.0.1:0");
    let builder =
        builder.listen_as(ListenerId(9), "[::1]:0").listen_as(ListenerId(7), "127.0.0.2:0");
    let server = TestServer::start(builder);
    let addresses = server.running().local_addresses().to_vec();
    assert_eq!(addresses.iter().map(|(name, _)| name.0).collect::<Vec<_>>(), [0, 7, 9, 7]);
    for (listener, address) in addresses {
        let mut client = util::connect(address.socket_addr().unwrap());
        client.write_all(b"\n").unwrap();
        expect_bytes(&mut client, format!("{}\n", listener.0).as_bytes());
        finish(&mut client);
    }
    server.stop();
}

fn ids_are_of_one_link_of_one_server(case: &Case) {
    let servers: Vec<_> = (0..3)
        .map(|_| {
            let (handler, record, _) = util::echo().watched();
            (TestServer::start(case.small(handler)), record)
        })
        .collect();
    let mut clients: Vec<_> = servers.iter().map(|(server, _)| server.connect()).collect();
    clients.iter_mut().for_each(|client| round_trip(client, b"hello"));
    let ids: Vec<LinkId> = servers.iter().map(|(_, record)| record.id(0)).collect();
    for (n, (server, _)) in servers.iter().enumerate() {
        for (other, id) in ids.iter().enumerate().filter(|(other, _)| *other != n) {
            assert_ne!(ids[n], *id, "{n} and {other}");
            // To another server it is the id of no link.
            assert_eq!(server.handle.link(*id).try_post("x"), Err(PostError::Closed));
            server.handle.link(*id).close();
            server.handle.link(*id).abort();
            server.handle.all().except(*id).post("to all");
            expect_bytes(&mut clients[n], b"to all");
        }
    }
    clients.iter_mut().for_each(|client| round_trip(client, b"still here"));
    for (client, (server, _)) in clients.iter_mut().zip(servers) {
        finish(client);
        server.stop();
    }
}
