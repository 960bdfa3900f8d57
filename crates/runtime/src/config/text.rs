//! **Pure.** How values are written, masked and guessed at.

/// What stands in the place of a secret.
const MASK: &str = "***";

/// Reads a size: `4096`, `64KiB`, `1.5 MB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * unit;
    // Whole numbers up to 2^53 are exact in a float.
    (bytes <= 9_007_199_254_740_992.0).then_some(bytes as u64)
}

/// Writes a size in the largest unit that leaves a whole number.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fitting =
        units.iter().find(|(shift, _)| bytes >> shift > 0 && bytes.trailing_zeros() >= *shift);
    match fitting {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// A value as it may be shown: secrets and the passwords in addresses are masked.
pub(super) fn mask(key: &str, value: &str) -> String {
    let secret = ["password", "token", "secret"].iter().any(|end| key.ends_with(end));
    if secret && !value.is_empty() {
        return MASK.to_owned();
    }
    // A list of addresses; a comma that no address follows belongs to the address before it.
    let mut urls = Vec::<String>::new();
    for part in value.split(',') {
        match urls.last_mut() {
            Some(url) if !part.contains("://") => {
                url.push(',');
                url.push_str(part);
            }
            _ => urls.push(part.to_owned()),
        }
    }
    urls.iter().map(|url| mask_url(url)).collect::<Vec<_>>().join(",")
}

/// Hides too much rather than too little: passwords have been seen with any character.
fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let rest = match rest.rsplit_once('@') {
        None => rest.to_owned(),
        // Without a colon the whole of it is a token, as NATS uses it.
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:{MASK}@{host}"),
            None => format!("{MASK}@{host}"),
        },
    };
    match rest.split_once("password=") {
        None => format!("{scheme}://{rest}"),
        Some((before, _)) => format!("{scheme}://{before}password={MASK}"),
    }
}

/// The known key that was probably meant.
pub(super) fn closest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|candidate| (distance(key, candidate), candidate)).min()?;
    (near.0 <= 2.max(key.len() / 4)).then_some(near.1)
}

/// How many letters must be put in, taken out or changed (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row = (0..=b.chars().count()).collect::<Vec<_>>();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(b.chars()) {
            let changed = diagonal + usize::from(left != right);
            diagonal = *cell;
            last = changed.min(diagonal + 1).min(last + 1);
            *cell = last;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in
            [("4096", 4096), ("64KiB", 65536), ("1.5 MB", 1_500_000), ("20GiB", 20 << 30), ("0", 0)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes), "{text}");
        }
        for bad in ["", "-1", "1 parsec", "1e30", "9999999999TiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn secrets_are_masked() {
        assert_eq!(mask("nats.password", "hunter2"), "***");
        assert_eq!(mask("registry.ledger_url", "postgres://a:b@c/d?e"), "postgres://a:***@c/d?e");
        assert_eq!(mask("nats.url", "nats://s3cr3t@a:1,nats://b:2"), "nats://***@a:1,nats://b:2");
        assert_eq!(mask("nats.url", "nats://a:4222"), "nats://a:4222");
        assert_eq!(mask("url", "postgres://a:b,c/d@e@h1,h2/f"), "postgres://a:***@h1,h2/f");
        assert_eq!(
            mask("url", "postgres://h/f?user=a&password=b"),
            "postgres://h/f?user=a&password=***"
        );
    }

    #[test]
    fn a_key_with_a_slip_is_recognised() {
        let known = ["registry.ledger_url", "nats.url"];
        assert_eq!(closest("registry.leger_url", known.into_iter()), Some("registry.ledger_url"));
        assert_eq!(closest("colour", known.into_iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
