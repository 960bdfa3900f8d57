//! Prints an error with its causes, each said once.

/// The error and its causes, joined by colons. A cause that the text before it already ends with is
/// left out: async-nats, among others, repeats its source in its own text.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[test]
    fn a_cause_that_was_said_already_is_not_said_again() {
        let error = anyhow::anyhow!("no route")
            .context("failed to dial: no route")
            .context("failed to start");
        assert_eq!(chain(&error), "failed to start: failed to dial: no route");
    }
}
