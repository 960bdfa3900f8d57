//! **Pure.** What the end of a container means, and what keeps one from starting.

use jetmill_sdk::worker::AttemptError;

use super::engine::{End, Trouble};

/// What a shell says about a program that is not there.
const NOT_FOUND: i64 = 127;
/// And about one that is no program.
const NOT_EXECUTABLE: i64 = 126;

/// What a container's end says about its attempt.
pub(super) fn ended(end: &End, ok_codes: &[i32], memory_mb: u32) -> Option<AttemptError> {
    if end.exit == 0 || ok_codes.iter().any(|code| i64::from(*code) == end.exit) {
        return None;
    }
    if end.out_of_memory {
        let message = format!(
            "the container took more than {memory_mb} MiB of memory and was killed; executor.docker.memory_mb sets this"
        );
        return Some(AttemptError::retryable("memory_limit", message));
    }
    let code = end.exit;
    let hint = match code {
        NOT_FOUND => ", which often means that the image has no such program",
        NOT_EXECUTABLE => ", which often means that it may not be executed",
        _ => "",
    };
    let said = if end.error.is_empty() { String::new() } else { format!(": {}", end.error) };
    let message = format!("the container ended with exit code {code}{hint}{said}");
    Some(AttemptError::retryable(format!("exit_{code}"), message))
}

/// Why a container could not be made or started.
pub(super) fn cannot_start(trouble: &Trouble, socket: &str) -> AttemptError {
    match trouble {
        Trouble::Away(why) => {
            let message = format!(
                "no Docker engine answers at {socket}: {why}; start one, set worker_pool.docker.socket, or name a queue whose workers have one"
            );
            AttemptError::retryable("no_engine", message)
        }
        Trouble::Refused(why) => {
            let message = format!("the engine refuses this container: {why}");
            AttemptError::permanent("engine_refused", message)
        }
        Trouble::Missing(why) | Trouble::Conflict(why) | Trouble::Failed(why) => {
            let message = format!("the engine could not start the container: {why}");
            AttemptError::retryable("engine_failed", message)
        }
    }
}

/// An image that the engine does not have.
pub(super) fn no_image(image: &str) -> AttemptError {
    let message = format!(
        "the worker's engine has no image {image:?}, and Jetmill pulls none: run `docker pull {image}` on the worker's machine, or name a queue whose workers have it"
    );
    AttemptError::permanent("image_not_found", message)
}

/// A name that is another's.
pub(super) fn name_taken(name: &str) -> AttemptError {
    let message = format!(
        "the engine has a container {name:?} that is not Jetmill's, and it is not touched: rename or remove it by hand"
    );
    AttemptError::retryable("name_taken", message)
}

/// A running container of which nothing can be heard any more.
pub(super) fn lost(trouble: &Trouble) -> AttemptError {
    match trouble {
        Trouble::Missing(_) => AttemptError::retryable(
            "container_removed",
            "somebody removed the container while it ran",
        ),
        Trouble::Away(why)
        | Trouble::Conflict(why)
        | Trouble::Refused(why)
        | Trouble::Failed(why) => {
            let message = format!(
                "the engine went away while the container ran: {why}; what is left of it is removed as soon as the engine is back"
            );
            AttemptError::retryable("engine_lost", message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_of_a_container_has_its_code() {
        let end = |exit, out_of_memory| End { exit, out_of_memory, error: String::new() };
        let code = |end: &End| ended(end, &[3], 64).map(|e| (e.code, e.retryable));
        assert_eq!(code(&end(0, false)), None);
        assert_eq!(code(&end(0, true)), None, "it went on without what was killed");
        assert_eq!(code(&end(3, false)), None);
        assert_eq!(code(&end(4, false)), Some(("exit_4".into(), true)));
        assert_eq!(code(&end(137, true)), Some(("memory_limit".into(), true)));
        let error = ended(&end(127, false), &[], 64).expect("an error");
        assert!(error.message.contains("no such program"), "{}", error.message);
    }

    #[test]
    fn an_engines_trouble_says_what_to_do() {
        let check = |trouble: Trouble, code: &str, retryable, part: &str| {
            let error = cannot_start(&trouble, "/run/a.sock");
            assert_eq!((error.code.as_str(), error.retryable), (code, retryable));
            assert!(error.message.contains(part), "{}", error.message);
        };
        check(Trouble::Away("x".into()), "no_engine", true, "/run/a.sock");
        check(Trouble::Refused("only 2 CPUs".into()), "engine_refused", false, "only 2 CPUs");
        check(Trouble::Failed("disk full".into()), "engine_failed", true, "disk full");
        assert!(no_image("a:1").message.contains("docker pull a:1"));
        assert_eq!(lost(&Trouble::Missing(String::new())).code, "container_removed");
        assert_eq!(lost(&Trouble::Away(String::new())).code, "engine_lost");
    }
}
