//! Listening sockets.

use crate::limits::Settings;
use crate::server::files;
use crate::vocabulary::error::{Holder, StartError, is_of_many};
use crate::vocabulary::origin::ListenerId;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, ToSocketAddrs};
use std::time::Duration;

/// Time for which `listen` retries an address that is in use.
///
/// After a kill the kernel keeps an io_uring server's socket for tens of milliseconds. Below a second,
/// so that a real conflict is reported soon.
const RETRY_FOR: Duration = Duration::from_millis(800);
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// How often the system chooses a port that all addresses of a name shall have.
const PORTS_TRIED: u32 = 16;

/// What `Builder::listen` was given, and the addresses that it stands for.
#[derive(Debug)]
pub(super) struct ListenTarget {
    given: String,
    pub(super) addresses: Vec<SocketAddr>,
    /// The addresses are those of a name.
    is_name: bool,
}

/// A listening socket, and its address.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) id: ListenerId,
    pub(super) address: SocketAddr,
    pub(super) socket: TcpListener,
}

impl ListenTarget {
    /// Resolves `text`, without duplicates.
    pub(super) fn resolve(text: &str) -> Result<Self, StartError> {
        let fault = |source| StartError::address(text, source);
        let target = |addresses, is_name| Self { given: text.to_owned(), addresses, is_name };
        if let Some(address) = text.parse().ok().map(Ok).or_else(|| scoped(text)) {
            return Ok(target(vec![address.map_err(fault)?], false));
        }
        let mut found: Vec<SocketAddr> = Vec::new();
        for address in text.to_socket_addrs().map_err(fault)? {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        if found.is_empty() {
            return Err(fault(io::Error::new(ErrorKind::NotFound, "the name has no address")));
        }
        Ok(target(found, true))
    }

    /// Listens on all addresses, beside `others` of the same server; of a name, on those that this
    /// machine has, which must be one at least. Returns why it does not listen on the rest.
    fn listen(
        &self,
        settings: &Settings,
        others: &[Listening],
    ) -> Result<(Vec<TcpListener>, Vec<StartError>), StartError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_listen(settings, others) {
                // Another address of the name has the port that the system chose for the first.
                Err((error, true)) if tries == PORTS_TRIED => return Err(error),
                Err((_, true)) => {}
                Err((error, false)) => return Err(error),
                Ok((listeners, mut lacking)) if listeners.is_empty() => {
                    return Err(lacking.swap_remove(0));
                }
                Ok(listening) => return Ok(listening),
            }
        }
    }

    /// As `listen`, once; with an error, whether another port may help.
    fn try_listen(
        &self,
        settings: &Settings,
        others: &[Listening],
    ) -> Result<(Vec<TcpListener>, Vec<StartError>), (StartError, bool)> {
        let (mut listeners, mut lacking) = (Vec::new(), Vec::new());
        // Once the system has chosen it, the port of all.
        let mut chosen = None;
        for address in &self.addresses {
            let mut address = *address;
            let is_chosen = chosen.is_some();
            address.set_port(chosen.unwrap_or(address.port()));
            let listener = match listen(address, settings, others, !is_chosen) {
                Ok(listener) => listener,
                Err((error, holder)) => {
                    let is_lacking = error.kind() == ErrorKind::AddrNotAvailable;
                    let in_use = error.kind() == ErrorKind::AddrInUse;
                    let error = StartError::listen(&self.given, address, holder, error);
                    if self.is_name && is_lacking {
                        lacking.push(error);
                        continue;
                    }
                    return Err((error, is_chosen && in_use));
                }
            };
            if address.port() == 0 {
                chosen = listener.local_addr().ok().map(|address| address.port());
            }
            listeners.push(listener);
        }
        Ok((listeners, lacking))
    }
}

/// Resolves all texts. Names are looked up only if each text can be an address.
pub(super) fn resolve_all(
    texts: &[(ListenerId, String)],
) -> Result<Vec<(ListenerId, ListenTarget)>, StartError> {
    for (_, text) in texts {
        if let Some(fault) = fault_of(text) {
            let source = io::Error::new(ErrorKind::InvalidInput, fault);
            return Err(StartError::address(text, source));
        }
    }
    texts.iter().map(|(id, text)| Ok((*id, ListenTarget::resolve(text)?))).collect()
}

/// Listens on all targets.
pub(super) fn listen_all(
    targets: &[(ListenerId, ListenTarget)],
    settings: &Settings,
) -> Result<Vec<Listening>, StartError> {
    let mut all = Vec::new();
    for (id, target) in targets {
        let (listeners, lacking) = target.listen(settings, &all)?;
        for error in lacking {
            tracing::warn!(%error, "not listening on one address of a name");
        }
        for socket in listeners {
            let address =
                socket.local_addr().map_err(|error| StartError::system("getsockname", error))?;
            all.push(Listening { id: *id, address, socket });
        }
    }
    Ok(all)
}

/// Why a text cannot be an address; `None` also for a name that may not exist.
fn fault_of(text: &str) -> Option<&'static str> {
    if text.parse::<SocketAddr>().is_ok() || scoped(text).is_some() {
        return None;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Some("invalid socket address") };
    let is_part_of_name = |c: char| c.is_alphanumeric() || "-._".contains(c);
    if port.parse::<u16>().is_err() {
        Some("invalid port value")
    } else if host.contains(['[', ']', ':']) {
        // Without brackets the system's resolver takes it.
        let address = host.split('%').next().unwrap_or_default();
        address.parse::<Ipv6Addr>().is_err().then_some("invalid IPv6 address")
    } else if host.is_empty() || !host.chars().all(is_part_of_name) {
        Some("invalid host name")
    } else {
        // The last part of a name is no number (RFC 1123, section 2.1).
        let is_number = host.chars().all(|c| c.is_ascii_digit() || c == '.');
        is_number.then_some("invalid IPv4 address")
    }
}

/// An IPv6 address with the name of an interface, such as `[fe80::1%eth0]:9527`.
fn scoped(text: &str) -> Option<io::Result<SocketAddr>> {
    let (host, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
    let (address, interface) = host.split_once('%')?;
    let (address, port): (Ipv6Addr, u16) = (address.parse().ok()?, port.parse().ok()?);
    // The system's resolver knows interfaces, of link-local addresses only.
    let link_local = format!("fe80::%{interface}");
    let found = (link_local.as_str(), port).to_socket_addrs().ok().and_then(|mut all| all.next());
    Some(match found {
        Some(SocketAddr::V6(found)) => {
            Ok(SocketAddrV6::new(address, port, 0, found.scope_id()).into())
        }
        _ => Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("there is no interface {interface:?}"),
        )),
    })
}

/// Binds a socket to `address` and listens on it, with [`RETRY_FOR`] for an address that is in use, if
/// it `waits`.
fn listen(
    address: SocketAddr,
    settings: &Settings,
    others: &[Listening],
    waits: bool,
) -> Result<TcpListener, (io::Error, Holder)> {
    let mut waited = if waits { Duration::ZERO } else { RETRY_FOR };
    loop {
        let error = match try_listen(address, settings) {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        if error.kind() != ErrorKind::AddrInUse {
            return Err((error, Holder::Unknown));
        }
        let excludes = |other: SocketAddr| exclude(address, other, settings.dual_stack);
        if let Some(other) = others.iter().find(|other| excludes(other.address)) {
            return Err((error, Holder::Server(other.address)));
        }
        if waited >= RETRY_FOR {
            let is_ours = files::listening().into_iter().any(excludes);
            return Err((error, if is_ours { Holder::Process } else { Holder::Unknown }));
        }
        std::thread::sleep(RETRY_EVERY);
        waited += RETRY_EVERY;
    }
}

/// Whether only one of two sockets can listen on these.
fn exclude(one: SocketAddr, other: SocketAddr, dual_stack: bool) -> bool {
    let overlap = |any: IpAddr, some: IpAddr| {
        any.is_unspecified() && (any.is_ipv4() == some.is_ipv4() || (any.is_ipv6() && dual_stack))
    };
    let (a, b) = (one.ip(), other.ip());
    one.port() == other.port()
        && (a.to_canonical() == b.to_canonical() || overlap(a, b) || overlap(b, a))
}

/// EAFNOSUPPORT: the system was started without IPv6.
#[cfg(not(windows))]
const NO_FAMILY: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
#[cfg(windows)]
const NO_FAMILY: i32 = 10_047;

fn try_listen(address: SocketAddr, settings: &Settings) -> io::Result<TcpListener> {
    if is_of_many(address.ip()) {
        // Some systems would listen there, in vain.
        return Err(ErrorKind::InvalidInput.into());
    }
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP));
    let socket = socket.map_err(|error| match error.raw_os_error() {
        // No address of the family is one of this machine.
        Some(NO_FAMILY) => io::Error::new(ErrorKind::AddrNotAvailable, error),
        _ => error,
    })?;
    // On Unix SO_REUSEADDR allows to bind an address with connections in TIME_WAIT; two listeners still
    // exclude each other. On Windows a second program could take the port, so it is not set there.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if domain == Domain::IPV6 {
        // With IPV6_V6ONLY, 0.0.0.0 and [::] can be listened on with the same port on every system.
        socket.set_only_v6(!settings.dual_stack)?;
    }
    // Accepted sockets inherit TCP_NODELAY. The engine submits one send for each link and turn, so
    // Nagle's algorithm would only delay it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(settings.backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

#[cfg(test)]
#[path = "../../tests/util/skip.rs"]
mod skip;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::error::StartErrorKind;
    use std::error::Error as _;

    fn target(given: &str, addresses: &[&str], is_name: bool) -> ListenTarget {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        ListenTarget { given: given.to_owned(), addresses, is_name }
    }

    fn listen_on(given: &str) -> Result<Vec<Listening>, StartError> {
        listen_all(&[(ListenerId(0), ListenTarget::resolve(given)?)], &Settings::default())
    }

    #[track_caller]
    fn told(given: &str, parts: &[&str]) {
        let error = listen_on(given).unwrap_err();
        assert_eq!(error.kind(), StartErrorKind::Address, "{error}");
        let text = error.to_string();
        for part in parts.iter().chain([&given]) {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_taken_address_is_told_with_who_has_it() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let given = format!("127.0.0.1:{port}");
        let owner = if cfg!(windows) {
            format!("the process that has port {port} (netstat -ano)")
        } else {
            format!("sport = :{port}")
        };
        told(&given, &["in use; ", &owner]);
    }

    #[test]
    fn an_address_that_is_given_twice_is_told_at_once() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (first, second) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")] {
            let given = [first, second].map(|host| format!("{host}:{}", free.port()));
            let targets =
                given.each_ref().map(|text| (ListenerId(0), ListenTarget::resolve(text).unwrap()));
            let text = listen_all(&targets, &Settings::default()).unwrap_err().to_string();
            let [first, second] = given;
            assert!(text.contains(&format!("cannot listen on {second}: ")), "{text}");
            assert!(text.contains(&format!("this server listens on {first} already")), "{text}");
        }
    }

    #[test]
    fn which_addresses_exclude_each_other() {
        let cases = [
            ("127.0.0.1:1", "127.0.0.1:1", true, true),
            ("127.0.0.1:1", "127.0.0.1:2", false, false),
            ("0.0.0.0:1", "127.0.0.1:1", true, true),
            ("[::]:1", "[::1]:1", true, true),
            ("[::]:1", "0.0.0.0:1", false, true),
            ("[::]:1", "127.0.0.1:1", false, true),
            ("0.0.0.0:1", "[::1]:1", false, false),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true, true),
        ];
        for (one, other, apart, dual_stack) in cases {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(exclude(one, other, false), apart, "{one} {other}");
            assert_eq!(exclude(other, one, true), dual_stack, "{one} {other}");
        }
    }

    /// 198.51.100.0/24 is reserved for documentation (RFC 5737), so no machine has it.
    #[test]
    fn of_a_name_the_addresses_of_this_machine_are_enough() {
        let addresses = ["198.51.100.1:0", "127.0.0.1:0", "127.0.0.2:0"];
        let name = target("name:0", &addresses, true);
        let (listeners, lacking) = name.listen(&Settings::default(), &[]).unwrap();
        let [one, other] = [0, 1].map(|at: usize| listeners[at].local_addr().unwrap());
        assert_eq!((listeners.len(), one.port()), (2, other.port()), "one port for all");
        let text = lacking[0].to_string();
        assert!(text.contains("name:0 (198.51.100.1:0): not an address of"), "{text}");
        // One at least, and all of what is no name.
        let error = target("name:0", &addresses[..1], true).listen(&Settings::default(), &[]);
        assert!(error.unwrap_err().to_string().contains("name:0"));
        target("198.51.100.1:0", &addresses, false).listen(&Settings::default(), &[]).unwrap_err();
    }

    #[test]
    fn a_foreign_address_is_told_and_what_stands_for_all() {
        let all = "0.0.0.0 for all IPv4 addresses, or [::] for all IPv6 addresses";
        told("198.51.100.1:9527", &["not an address of this machine", all]);
    }

    #[test]
    fn addresses_of_many_machines_are_refused() {
        for given in ["224.0.0.1:0", "255.255.255.255:0"] {
            told(given, &["multicast or broadcast", "0.0.0.0"]);
        }
    }

    #[test]
    fn addresses_that_lack_something_are_told_with_what_it_is() {
        if TcpListener::bind("[::1]:0").is_err() {
            return skip::lacks("there is no IPv6");
        }
        told("[fe80::1]:9527", &["interface", "[fe80::1%eth0]:9527"]);
        told("[ff02::1]:9527", &["multicast"]);
        told("[::ffff:127.0.0.1]:9527", &["IPv4", "write 127.0.0.1:9527", "dual_stack"]);
        told("[fe80::1%no-such]:9527", &["there is no interface \"no-such\""]);
        // Windows does not look for the interface of a number.
        #[cfg(unix)]
        told("[fe80::1%4000000]:9527", &["there is no interface 4000000"]);
    }

    #[test]
    fn interfaces_have_names() {
        let scope = |text| match ListenTarget::resolve(text).unwrap().addresses[..] {
            [SocketAddr::V6(address)] => (*address.ip(), address.port(), address.scope_id()),
            _ => panic!("one IPv6 address"),
        };
        let lo = std::fs::read_to_string("/sys/class/net/lo/ifindex").unwrap();
        let lo = lo.trim().parse().unwrap();
        assert_eq!(scope("[fe80::1%lo]:80"), ("fe80::1".parse().unwrap(), 80, lo));
        assert_eq!(scope("[::1%lo]:80"), (Ipv6Addr::LOCALHOST, 80, lo));
        assert_eq!(scope("[fe80::1%7]:80"), ("fe80::1".parse().unwrap(), 80, 7));
    }

    #[test]
    fn nonsense_is_reported_with_what_was_given() {
        let error = ListenTarget::resolve("127.0.0.1").unwrap_err().to_string();
        assert!(error.contains("\"127.0.0.1\"") && error.contains("127.0.0.1:9527"), "{error}");
        assert_eq!(ListenTarget::resolve("[::1]:80").unwrap().addresses.len(), 1);
    }

    #[test]
    fn a_text_that_is_no_address_is_not_looked_up() {
        for (given, fault) in [
            ("[::1:9527", "invalid IPv6 address"),
            ("::1]:9527", "invalid IPv6 address"),
            ("[::g]:80", "invalid IPv6 address"),
            ("[::g%lo]:80", "invalid IPv6 address"),
            ("1:2:3:80", "invalid IPv6 address"),
            ("[localhost]:9527", "invalid IPv6 address"),
            ("[127.0.0.1]:9527", "invalid IPv6 address"),
            ("[]:80", "invalid IPv6 address"),
            ("256.1.1.1:80", "invalid IPv4 address"),
            ("1.2.3.4.:80", "invalid IPv4 address"),
            ("127.1:80", "invalid IPv4 address"),
            (":80", "invalid host name"),
            ("a b:80", "invalid host name"),
            ("host/name:80", "invalid host name"),
            ("127.0.0.1:65536", "invalid port value"),
            ("[::1]", "invalid port value"),
        ] {
            // The name before it is not looked up, either.
            let addresses = ["no.invalid:80", given].map(|text| (ListenerId(0), text.to_owned()));
            let error = resolve_all(&addresses).unwrap_err();
            let source = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
            assert_eq!(source.kind(), ErrorKind::InvalidInput, "{error}");
            let expected = format!("cannot listen on {given:?}: {fault}; write ");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
        for given in ["web.1:80", "localhost:80", "a_b-c.example.:80", "bücher.example:80"] {
            assert_eq!(fault_of(given), None, "{given}");
        }
    }
}
