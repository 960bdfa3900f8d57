//! **Pure.** What an HTTP request of a task may say, and how its words are read.

use url::{Host, Url};

use crate::limits;

/// The methods there are.
pub const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
/// Headers that belong to the connection: who sets them speaks to another host than the URL names,
/// or ends the request early.
const RESERVED: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
];

/// The method as it goes over the wire; an empty one is GET.
pub fn method(word: &str) -> Option<&'static str> {
    let word = if word.is_empty() { "GET" } else { word };
    METHODS.into_iter().find(|method| method.eq_ignore_ascii_case(word))
}

/// Reads a URL; the error says what it must be.
pub fn url(text: &str) -> Result<Url, String> {
    let max = limits::HTTP_URL_BYTES_MAX;
    if text.len() > max {
        return Err(format!("must have at most {max} bytes"));
    }
    let url =
        Url::parse(text).map_err(|e| format!("must be a URL such as https://host/path: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with http:// or https://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user or a password; give them as a secret header".into());
    }
    match url.host() {
        Some(Host::Domain("")) | None => Err("must name a host".into()),
        Some(_) => Ok(url),
    }
}

/// Whether a header may have this name; the error says why not.
pub fn header_name(name: &str) -> Result<(), &'static str> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || !name.bytes().all(token) {
        Err("is no name of a header")
    } else if RESERVED.contains(&lower.as_str()) || lower.starts_with("proxy-") {
        Err("belongs to the connection and cannot be set")
    } else if lower.starts_with("jetmill-") {
        Err("is one of Jetmill's own")
    } else {
        Ok(())
    }
}

/// Whether a header may have this value.
pub fn is_header_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}

/// The words before a secret, and the reference to it: "Bearer env:TOKEN".
pub fn secret(text: &str) -> Option<(&str, &str)> {
    let start = text.rfind(' ').map_or(0, |space| space + 1);
    let (before, reference) = text.split_at_checked(start)?;
    let known = reference.starts_with("env:") || reference.starts_with("file:");
    (known && is_header_value(before)).then_some((before, reference))
}

/// A set of status codes that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    first: u16,
    last: u16,
}

impl Statuses {
    /// Reads "404", "2xx" or "200-299".
    pub fn parse(text: &str) -> Option<Self> {
        let code = |text: &str| {
            let is_code = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|code| is_code && (100..=599).contains(code))
        };
        if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (code(first.trim())?, code(last.trim())?);
            return (first <= last).then_some(Self { first, last });
        }
        if let Some(class) = text.strip_suffix("xx") {
            let first = code(&format!("{class}00"))?;
            return Some(Self { first, last: first + 99 });
        }
        code(text).map(|code| Self { first: code, last: code })
    }

    /// Whether one of the sets has this code; without any set, one of the defaults.
    pub fn any(given: &[String], defaults: &[&str], code: u16) -> bool {
        let has = |text: &str| {
            Self::parse(text).is_some_and(|set| (set.first..=set.last).contains(&code))
        };
        if given.is_empty() {
            defaults.iter().any(|text| has(text))
        } else {
            given.iter().any(|text| has(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_scheme_a_host_and_no_password() {
        for good in ["http://a", "https://a.b:8443/c?d#e", "http://[::1]/", "http://127.0.0.1:1"] {
            assert!(url(good).is_ok(), "{good}");
        }
        for bad in
            ["", "a.b/c", "ftp://a", "file:///etc/passwd", "http://u:p@a", "http://u@a", "http://"]
        {
            assert!(url(bad).is_err(), "{bad}");
        }
        assert!(url(&format!("http://a/{}", "b".repeat(limits::HTTP_URL_BYTES_MAX))).is_err());
    }

    #[test]
    fn an_address_is_an_address_however_it_is_written() {
        for text in ["http://0x7f.1/", "http://2130706433/", "http://0177.0.0.1", "http://127.1"] {
            let host = url(text).expect("a url").host().map(|h| h.to_owned());
            assert_eq!(host, Some(Host::Ipv4([127, 0, 0, 1].into())), "{text}");
        }
    }

    #[test]
    fn headers_of_the_connection_cannot_be_set() {
        for good in ["Accept", "x-api-key", "Idempotency-Key"] {
            assert_eq!(header_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a b",
            "a:b",
            "Host",
            "content-length",
            "Proxy-Authorization",
            "é",
            "Jetmill-Attempt",
            "a\r\nb",
        ] {
            assert!(header_name(bad).is_err(), "{bad}");
        }
        assert!(is_header_value("a\tb é") && !is_header_value("a\r\nX: y"));
    }

    #[test]
    fn a_secret_may_have_words_before_it() {
        assert_eq!(secret("env:A"), Some(("", "env:A")));
        assert_eq!(secret("Bearer file:a"), Some(("Bearer ", "file:a")));
        assert_eq!(secret("hunter2"), None);
        assert_eq!(secret("env:A hunter2"), None);
    }

    #[test]
    fn statuses_are_codes_classes_and_ranges() {
        let has = |text: &str, code| Statuses::any(&[text.to_owned()], &[], code);
        assert!(has("404", 404) && !has("404", 405));
        assert!(has("2xx", 200) && has("2xx", 299) && !has("2xx", 300));
        assert!(has("200-204", 204) && !has("200-204", 205));
        assert!(
            Statuses::any(&[], &["5xx"], 503) && !Statuses::any(&["404".into()], &["5xx"], 503)
        );
        for bad in ["", "abc", "2x", "xx", "600", "99", "+20", "300-200", "2xx-3xx"] {
            assert_eq!(Statuses::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn methods_are_read_in_either_case() {
        assert_eq!(method("patch"), Some("PATCH"));
        assert_eq!(method(""), Some("GET"));
        assert_eq!(method("CONNECT"), None);
    }
}
