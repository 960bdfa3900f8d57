//! **Pure.** Which hosts and addresses a request may reach.
//!
//! A host is judged by its name before each request and each redirect; an address is judged when a
//! name was resolved, for the very address that is connected to.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use url::Url;

/// A host that may be asked: `example.com` at any port, or `example.com:8443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

/// What of the private network may be asked: a host by its name, an address, or a range of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Private {
    /// Whatever this name resolves to.
    Host(String),
    /// Whatever lies in the range.
    Net(IpNet),
}

/// What the worker's requests may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The hosts; empty is every public one.
    pub hosts: Vec<Host>,
    /// What may be asked although it is not public.
    pub allow_private: Vec<Private>,
}

/// Why a request must not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Forbidden(String);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "must be hosts such as example.com or example.com:8443".to_owned();
        if text.is_empty() || text.contains(['/', '@', '?', '#', '*']) {
            return Err(expected());
        }
        // The same reader as for the URLs: both sides are then written alike.
        let url = Url::parse(&format!("http://{text}/")).map_err(|_| expected())?;
        let name = url.host_str().ok_or_else(expected)?.to_owned();
        let bare = text.strip_suffix(']').is_some() || !text.contains(':');
        let port = if bare { None } else { url.port_or_known_default() };
        Ok(Self { name, port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for Private {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(net) = text.parse() {
            return Ok(Self::Net(net));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Net(address.into()));
        }
        match text.parse::<Host>() {
            Ok(Host { name, port: None }) => Ok(Self::Host(name)),
            _ => Err("must be hosts or ranges such as intranet or 10.0.0.0/8".into()),
        }
    }
}

impl Host {
    fn fits(&self, url: &Url) -> bool {
        url.host_str() == Some(self.name.as_str())
            && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

/// Whether the URL's host is on the list, exactly as it is written.
pub(crate) fn check_host(hosts: &[Host], url: &Url, whose: &str) -> Result<(), Forbidden> {
    if hosts.is_empty() || hosts.iter().any(|host| host.fits(url)) {
        return Ok(());
    }
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    let allowed = hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(Forbidden(format!("{host}{port} is none of the hosts that {whose} allows: {allowed}")))
}

impl Access {
    /// Judges a URL by its host; one that is a name is judged again when it is resolved.
    pub(crate) fn check(&self, url: &Url) -> Result<(), Forbidden> {
        check_host(&self.hosts, url, "this worker (worker_pool.http.hosts)")?;
        match url.host() {
            Some(url::Host::Ipv4(address)) => self.address(&address.to_string(), address.into()),
            Some(url::Host::Ipv6(address)) => self.address(&address.to_string(), address.into()),
            Some(url::Host::Domain(_)) => Ok(()),
            None => Err(Forbidden("the URL names no host".into())),
        }
    }

    /// Judges an address that a name stands for.
    pub(crate) fn address(&self, name: &str, address: IpAddr) -> Result<(), Forbidden> {
        let address = address.to_canonical();
        let listed = self.allow_private.iter().any(|allowed| match allowed {
            Private::Host(host) => host == name,
            Private::Net(net) => net.contains(&address),
        });
        if listed || is_public(address) {
            return Ok(());
        }
        let what = match address.to_string() {
            address if address == name => address,
            address => format!("{name} stands for {address}, which"),
        };
        Err(Forbidden(format!(
            "{what} is no public address; worker_pool.http.allow_private can allow it"
        )))
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Azure's host agent, which hands out metadata and keys to its machine: a public address that is
/// reached from nowhere else.
const AZURE_AGENT: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// What the registry of special addresses keeps from the public network, is not public.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || address == AZURE_AGENT
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));
    !special
}

/// Only `2000::/3` is given out; in it, what carries another address inside could lead anywhere.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let tunnel = a == 0x2002 || (a == 0x2001 && b < 0x0200);
    let documentation = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000);
    (0x2000..0x4000).contains(&a) && !tunnel && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(hosts: &[&str], private: &[&str]) -> Access {
        Access {
            hosts: hosts.iter().map(|h| h.parse().expect("a host")).collect(),
            allow_private: private.iter().map(|p| p.parse().expect("a range")).collect(),
        }
    }

    fn asks(access: &Access, url: &str) -> bool {
        access.check(&Url::parse(url).expect("a url")).is_ok()
    }

    #[test]
    fn hosts_are_matched_whole() {
        let list = access(&["github.com", "docs.rs:8443"], &[]);
        for good in ["https://github.com/a", "http://GitHub.com:99/", "https://docs.rs:8443/"] {
            assert!(asks(&list, good), "{good}");
        }
        for bad in [
            "https://evil-github.com/",
            "https://github.com.evil.org/",
            "https://github.com./",
            "https://sub.github.com/",
            "https://docs.rs/",
            "https://evil.org/github.com",
            "https://evil.org/?github.com#github.com",
        ] {
            assert!(!asks(&list, bad), "{bad}");
        }
        for bad in ["", "https://a.b", "*.a", "a/b", "u@a"] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
        assert_eq!("[::1]:80".parse::<Host>().map(|h| h.to_string()).as_deref(), Ok("[::1]:80"));
        assert_eq!("[::1]".parse::<Host>().map(|h| h.to_string()).as_deref(), Ok("[::1]"));
    }

    #[test]
    fn addresses_that_are_not_public_are_refused_however_they_are_written() {
        let all = Access::default();
        for bad in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://0.0.0.0/",
            "http://10.1.2.3/",
            "http://172.16.0.1/",
            "http://192.168.0.1/",
            "http://169.254.169.254/latest/meta-data",
            "http://168.63.129.16/machine?comp=goalstate",
            "http://100.64.0.1/",
            "http://192.0.0.1/",
            "http://198.18.0.1/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a00:1]/",
            "http://[::127.0.0.1]/",
            "http://[fe80::1]/",
            "http://[fc00::1]/",
            "http://[fd00:ec2::254]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[2001::1]/",
            "http://[2001:db8::1]/",
            "http://[ff02::1]/",
        ] {
            assert!(!asks(&all, bad), "{bad}");
        }
        for good in [
            "http://1.1.1.1/",
            "http://[2606:4700::1111]/",
            "http://172.32.0.1/",
            "http://168.63.129.17/",
        ] {
            assert!(asks(&all, good), "{good}");
        }
    }

    #[test]
    fn what_is_private_is_allowed_by_name_or_by_range() {
        let some = access(&[], &["10.0.0.0/8", "127.0.0.1", "intranet"]);
        assert!(asks(&some, "http://10.9.9.9/") && asks(&some, "http://127.0.0.1:99/"));
        assert!(asks(&some, "http://[::ffff:10.1.1.1]/"));
        assert!(!asks(&some, "http://127.0.0.2/") && !asks(&some, "http://192.168.0.1/"));
        let private = [192, 168, 0, 1].into();
        assert!(some.address("intranet", private).is_ok());
        assert!(some.address("evil.intranet", private).is_err());
    }
}
