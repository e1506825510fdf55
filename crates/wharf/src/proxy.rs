//! The PROXY protocol: which peers begin with a header, and whose connection it names.
//!
//! A proxy or load balancer in front of the server sends the address of its own client before the first
//! byte of that client, as text (version 1) or binary (version 2): see
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. The header says who the client is, so
//! it counts only from peers that the server was told to trust.

use ipnet::{IpNet, Ipv4Net};
use ppp::{v1, v2};
use std::net::{IpAddr, SocketAddr};

/// Maximum length of a header: version 1 has at most 107 bytes, and one of version 2 with addresses and
/// the usual additions (TLS, unique id) has a few hundred.
pub(crate) const HEADER_BYTES_MAX: usize = 1_024;

const V1_PREFIX: &[u8] = b"PROXY ";
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN";
const V1_BYTES_MAX: usize = 107;
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;

/// The networks whose connections begin with a header.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxySources {
    networks: Vec<IpNet>,
    /// The texts that are no networks.
    faults: Vec<String>,
}

impl ProxySources {
    /// Adds a network, such as `10.0.0.0/8` or `fd00::/8`, or a single address.
    pub(crate) fn add(&mut self, text: &str) {
        let network = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>());
        match network {
            Ok(network) => self.networks.push(canonical(network)),
            Err(_) => self.faults.push(format!(
                "proxy_protocol is {text:?}, but must be a network or an address, such as \
                 10.0.0.0/8, fd00::/8 or 127.0.0.1"
            )),
        }
    }

    /// What is wrong with the texts that were added.
    pub(crate) fn faults(&self) -> impl Iterator<Item = String> {
        self.faults.iter().cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Whether connections of `peer` begin with a header. An IPv4 address that a listener of both
    /// families shows as IPv6 counts as IPv4.
    pub(crate) fn contain(&self, peer: SocketAddr) -> bool {
        let address = peer.ip().to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// An IPv4 network that is written as IPv6, such as `::ffff:10.0.0.0/104`, as IPv4: as such the peers
/// are looked for.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(address, len)| Ipv4Net::new(address, len).ok()).map_or(network, IpNet::V4)
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// The beginning of a header.
    Incomplete,
    /// A header of `len` bytes. `client` is the address of the proxy's client; `None` if the header
    /// names none, because the proxy speaks for itself (a health check) or does not know it.
    Complete { len: usize, client: Option<SocketAddr> },
    /// No header, or a malformed one.
    Malformed,
}

impl Header {
    /// Reads a header from the first bytes of a connection, of which more may follow.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        if starts_alike(bytes, V1_PREFIX) {
            Self::parse_v1(bytes)
        } else if starts_alike(bytes, v2::PROTOCOL_PREFIX) {
            Self::parse_v2(bytes)
        } else {
            Self::Malformed
        }
    }

    fn parse_v1(bytes: &[u8]) -> Self {
        // The parser takes some beginnings of a header for malformed ones, so it gets whole lines.
        let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
        let Some(end) = memchr::memchr(b'\n', line) else {
            return if line.len() < V1_BYTES_MAX { Self::Incomplete } else { Self::Malformed };
        };
        let line = &line[..=end];
        // What follows the word is ignored, whatever it is; the parser expects few words there.
        let is_unknown = [&b" "[..], b"\r\n"]
            .iter()
            .any(|next| line.strip_prefix(V1_UNKNOWN).is_some_and(|rest| rest.starts_with(next)));
        if is_unknown && line.ends_with(b"\r\n") {
            return Self::Complete { len: end + 1, client: None };
        }
        let client = match v1::Header::try_from(line).map(|header| header.addresses) {
            Ok(v1::Addresses::Tcp4(ip)) => {
                Some(SocketAddr::from((ip.source_address, ip.source_port)))
            }
            Ok(v1::Addresses::Tcp6(ip)) => {
                Some(SocketAddr::from((ip.source_address, ip.source_port)))
            }
            Ok(v1::Addresses::Unknown) | Err(_) => return Self::Malformed,
        };
        Self::Complete { len: end + 1, client }
    }

    fn parse_v2(bytes: &[u8]) -> Self {
        let Some(fixed) = bytes.first_chunk::<V2_FIXED_BYTES>() else { return Self::Incomplete };
        let len = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if len > HEADER_BYTES_MAX {
            return Self::Malformed;
        }
        let Some(header) = bytes.get(..len) else { return Self::Incomplete };
        let Ok(header) = v2::Header::try_from(header) else { return Self::Malformed };
        let client = match (header.command, header.protocol, header.addresses) {
            (v2::Command::Local, ..) => None,
            // A datagram is no connection.
            (v2::Command::Proxy, v2::Protocol::Datagram, _) => return Self::Malformed,
            (v2::Command::Proxy, _, v2::Addresses::IPv4(ip)) => {
                Some(SocketAddr::from((ip.source_address, ip.source_port)))
            }
            (v2::Command::Proxy, _, v2::Addresses::IPv6(ip)) => {
                Some(SocketAddr::from((ip.source_address, ip.source_port)))
            }
            (v2::Command::Proxy, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
        };
        Self::Complete { len, client }
    }
}

/// Whether `bytes` begin with `prefix`, or are its beginning.
fn starts_alike(bytes: &[u8], prefix: &[u8]) -> bool {
    let len = bytes.len().min(prefix.len());
    bytes[..len] == prefix[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &len, rest].concat()
    }

    fn v4(port: u16) -> Vec<u8> {
        [&[192, 0, 2, 1, 198, 51, 100, 1][..], &port.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    /// Headers, and the client that each names.
    fn headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let v6 = [&[0x20; 32][..], &[0, 7, 0, 8]].concat();
        let unix = vec![b'/'; 216];
        let extended = [v4(80), [0x04, 0, 200].to_vec(), vec![0; 200]].concat();
        vec![
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 80 443\r\n".to_vec(), Some("192.0.2.1:80")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n".to_vec(), Some("[2001:db8::1]:0")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN 1 2 3 4 anything at all, \xFF\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4(80)), Some("192.0.2.1:80")),
            (v2(0x21, 0x11, &extended), Some("192.0.2.1:80")),
            (v2(0x21, 0x21, &v6), Some("[2020:2020:2020:2020:2020:2020:2020:2020]:7")),
            (v2(0x21, 0x31, &unix), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &v4(80)), None),
        ]
    }

    #[test]
    fn a_header_names_the_proxys_client_however_it_is_split() {
        for (header, client) in headers() {
            let client = client.map(|text| text.parse().unwrap());
            let with_data = [&header[..], b"PROXY and more\r\n"].concat();
            for len in 0..header.len() {
                assert_eq!(
                    Header::parse(&header[..len]),
                    Header::Incomplete,
                    "{len} of {header:?}"
                );
            }
            let complete = Header::Complete { len: header.len(), client };
            for len in header.len()..=with_data.len() {
                assert_eq!(Header::parse(&with_data[..len]), complete, "{header:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_malformed_at_once() {
        let cases: [Vec<u8>; 15] = [
            b"G".to_vec(),
            b"PROXX".to_vec(),
            b"\r\n\r\nX".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 80 65536\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 198.51.100.1 80 443\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 198.51.100.1 80 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 80 443\n".to_vec(),
            b"PROXY UNKNOWN\n".to_vec(),
            b"PROXY UNKNOWNS\r\n".to_vec(),
            [b"PROXY ".to_vec(), vec![b'x'; 101]].concat(),
            v2(0x31, 0x11, &v4(80)),
            v2(0x21, 0x12, &v4(80)),
            v2(0x21, 0x11, &v4(80)[..11]),
            v2(0x21, 0x11, &[0; HEADER_BYTES_MAX]),
        ];
        for bytes in cases {
            assert_eq!(Header::parse(&bytes), Header::Malformed, "{}", bytes.escape_ascii());
        }
    }

    /// Every change of one byte and every cut of a header is read without a panic, and never as longer
    /// than it is.
    #[test]
    fn damaged_headers_are_read_without_a_panic() {
        for (header, _) in headers() {
            for at in 0..header.len() {
                for byte in 0..=u8::MAX {
                    let mut damaged = header.clone();
                    damaged[at] = byte;
                    for len in [at, at + 1, header.len()] {
                        if let Header::Complete { len: found, .. } = Header::parse(&damaged[..len])
                        {
                            assert!(found <= len);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sources_are_networks_or_addresses_of_either_family() {
        let mut sources = ProxySources::default();
        assert!(sources.is_empty());
        for text in ["10.0.0.0/8", "127.0.0.1", "fd00::/8"] {
            sources.add(text);
        }
        for (peer, is_source) in [
            ("10.200.3.4:1", true),
            ("127.0.0.1:65535", true),
            ("127.0.0.2:1", false),
            ("[::ffff:10.1.1.1]:1", true),
            ("[fd12::1]:1", true),
            ("[2001:db8::1]:1", false),
        ] {
            assert_eq!(sources.contain(peer.parse().unwrap()), is_source, "{peer}");
        }
        let mut mapped = ProxySources::default();
        for text in ["::ffff:192.0.2.1", "::ffff:10.0.0.0/104", "::/0"] {
            mapped.add(text);
        }
        for (peer, is_source) in [
            ("192.0.2.1:1", true),
            ("[::ffff:192.0.2.1]:1", true),
            ("192.0.2.2:1", false),
            ("10.255.0.1:1", true),
            ("11.0.0.1:1", false),
            ("[2001:db8::1]:1", true),
        ] {
            assert_eq!(mapped.contain(peer.parse().unwrap()), is_source, "{peer}");
        }
        for text in ["", "10.0.0.0/33", "localhost", "10.0.0.1:80", "10.0.0"] {
            assert_eq!(sources.faults().count(), 0);
            sources.add(text);
            let fault = std::mem::take(&mut sources.faults).remove(0);
            assert!(fault.contains(&format!("{text:?}")), "{fault}");
        }
    }
}
