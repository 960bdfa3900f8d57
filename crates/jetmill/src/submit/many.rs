//! Submits a file of tasks, and waits for them all when asked to.

use common::{
    error::{ApiError, ErrorCode},
    limits, pb,
    pb::TaskState,
    task::TaskSpec,
};
use futures::{StreamExt as _, stream};

use super::{
    cycle::{self, Node},
    file::{self, Defaults, Line},
};
use crate::{
    connect::Session,
    exit::{Exit, bad_input},
    output,
    progress::Progress,
    task,
    wait::Waiter,
};

/// Chunks of the file that are on their way at once.
const CHUNKS_IN_FLIGHT: usize = 4;
/// Bad lines that are told one by one.
const TOLD_MAX: u64 = 20;

/// What became of the file.
#[derive(Default)]
struct Tally {
    submitted: u64,
    existing: u64,
    refused: u64,
    unavailable: u64,
    completed: u64,
    ended_otherwise: u64,
}

impl Tally {
    fn exit(&self) -> Exit {
        match self {
            Self { refused: 1.., .. } => Exit::BadInput,
            Self { unavailable: 1.., .. } => Exit::Unavailable,
            Self { ended_otherwise: 1.., .. } => Exit::Failed,
            _ => Exit::Done,
        }
    }

    fn text(&self, waited: bool) -> String {
        let Self { submitted, existing, refused, unavailable, completed, ended_otherwise } = self;
        let mut text = format!("submitted {submitted} tasks");
        for (count, what) in [
            (existing, "were there already"),
            (refused, "lines refused"),
            (unavailable, "could not be submitted: run the command again"),
        ] {
            if *count > 0 {
                text.extend([format!(", {count} {what}")]);
            }
        }
        if waited {
            text.extend([format!("; {completed} completed, {ended_otherwise} ended otherwise")]);
        }
        text
    }
}

/// Submits every good line; cycles refuse the whole file.
pub(super) async fn run(session: &Session, text: &[u8], wait: bool) -> anyhow::Result<Exit> {
    let mut waiter = if wait { Some(Waiter::new(&session.client).await?) } else { None };
    let defaults = Defaults {
        tenant: session.tenant.to_string(),
        created_by: Session::actor(),
        notify: waiter.as_ref().map(|waiter| waiter.inbox().to_owned()).unwrap_or_default(),
    };
    let lines = file::parse(text, &defaults);
    if lines.is_empty() {
        let told = bad_input("the file has no tasks");
        return Err(told.hint("write one task a line, in JSON").into());
    }
    refuse_cycles(&lines)?;
    let mut tally = Tally::default();
    let progress = Progress::new("submitted", lines.len() as u64);
    submit(session, lines, waiter.as_mut(), (&mut tally, progress)).await?;
    if let Some(mut waiter) = waiter {
        let mut progress = Progress::new("ended", tally.submitted);
        progress.advance(tally.completed + tally.ended_otherwise);
        while !waiter.is_done() {
            let outcome = waiter.next().await;
            ended(session, outcome, &mut tally, &progress).await?;
            progress.advance(1);
        }
    }
    if !session.ui.json {
        output::line(tally.text(wait))?;
    }
    Ok(tally.exit())
}

fn refuse_cycles(lines: &[Line]) -> Result<(), ApiError> {
    let node = |spec: &TaskSpec| Node {
        id: spec.as_pb().task_id.clone(),
        waits_for: spec.as_pb().depends_on.iter().map(|d| d.task_id.clone()).collect(),
    };
    let good = lines.iter().filter_map(|line| line.task.as_ref().ok());
    let nodes = good.map(node).filter(|node| !node.id.is_empty()).collect::<Vec<_>>();
    match cycle::find(&nodes) {
        None => Ok(()),
        Some(ids) => {
            Err(bad_input(format!("tasks of the file wait for each other: {}", ids.join(" → ")))
                .hint("nothing was submitted; take one of these dependencies out"))
        }
    }
}

async fn submit(
    session: &Session,
    lines: Vec<Line>,
    mut waiter: Option<&mut Waiter>,
    (tally, mut progress): (&mut Tally, Progress),
) -> anyhow::Result<()> {
    let mut lines = lines.into_iter();
    let chunks = std::iter::from_fn(|| {
        let chunk = lines.by_ref().take(limits::SUBMIT_TASKS_MAX).collect::<Vec<_>>();
        (!chunk.is_empty()).then_some(chunk)
    });
    let mut answers =
        stream::iter(chunks).map(|chunk| send(session, chunk)).buffered(CHUNKS_IN_FLIGHT);
    loop {
        // Both arms are cancel-safe; outcomes are taken meanwhile, so that none is dropped unheard.
        let chunk = match &mut waiter {
            None => answers.next().await,
            Some(waiter) => tokio::select! {
                chunk = answers.next() => chunk,
                outcome = waiter.next() => {
                    ended(session, outcome, tally, &progress).await?;
                    continue;
                }
            },
        };
        let Some(chunk) = chunk else { return Ok(()) };
        for (number, answer) in chunk {
            progress.advance(1);
            if let (Ok(submission), Some(waiter)) = (&answer, &mut waiter) {
                waiter.expect(submission);
            }
            tell(session, number, answer, tally, &progress)?;
        }
    }
}

type Answers = Vec<(usize, Result<pb::Submission, ApiError>)>;

/// Submits the good lines of a chunk; answers in the order of the file.
async fn send(session: &Session, chunk: Vec<Line>) -> Answers {
    let mut answers = Vec::with_capacity(chunk.len());
    let (mut specs, mut places) = (Vec::new(), Vec::new());
    for (place, line) in chunk.into_iter().enumerate() {
        answers.push((
            line.number,
            line.task.map(|spec| {
                places.push(place);
                specs.push(spec);
                pb::Submission::default()
            }),
        ));
    }
    for (place, answer) in places.into_iter().zip(session.client.submit_all(specs).await) {
        if let Some((_, slot)) = answers.get_mut(place) {
            *slot = answer;
        }
    }
    answers
}

fn tell(
    session: &Session,
    number: usize,
    answer: Result<pb::Submission, ApiError>,
    tally: &mut Tally,
    progress: &Progress,
) -> anyhow::Result<()> {
    let submission = match answer {
        Ok(submission) => {
            tally.submitted += 1;
            tally.existing += u64::from(submission.existing);
            submission
        }
        Err(mut error) => {
            match error.code {
                ErrorCode::Unavailable | ErrorCode::Exhausted => tally.unavailable += 1,
                ErrorCode::InvalidArgument
                | ErrorCode::NotFound
                | ErrorCode::Conflict
                | ErrorCode::FailedPrecondition
                | ErrorCode::Internal => tally.refused += 1,
            }
            let told = tally.refused + tally.unavailable;
            if !session.ui.json && told <= TOLD_MAX {
                progress.say(&format!("line {number}: {error}"));
                if told == TOLD_MAX {
                    progress.say("further bad lines are only counted; --json tells all");
                }
            }
            error.message = format!("line {number}: {}", error.message);
            pb::Submission { error: Some(error.into()), ..pb::Submission::default() }
        }
    };
    if session.ui.json { output::json(&submission) } else { Ok(()) }
}

async fn ended(
    session: &Session,
    outcome: pb::Outcome,
    tally: &mut Tally,
    progress: &Progress,
) -> anyhow::Result<()> {
    let completed = outcome.state() == TaskState::Completed;
    if completed {
        tally.completed += 1;
    } else {
        tally.ended_otherwise += 1;
    }
    if session.ui.json {
        return output::json(&session.client.whole(outcome).await?);
    }
    if !completed && tally.ended_otherwise <= TOLD_MAX {
        progress.say(&task::end(&outcome));
    }
    Ok(())
}
