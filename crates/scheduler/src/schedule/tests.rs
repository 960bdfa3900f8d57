mod oracle;
mod rules;
mod site;
mod steps;
mod years;

use common::{pb, policy::schedule::Schedule};
use serde_json::{Value, json};

/// A schedule of tasks that another system runs.
fn schedule(fields: &Value) -> Schedule {
    let mut body = json!({ "task": { "task_type": "backup" } });
    let object = body.as_object_mut().unwrap();
    for (field, value) in fields.as_object().unwrap() {
        object.insert(field.clone(), value.clone());
    }
    Schedule::parse(&serde_json::from_value::<pb::Schedule>(body).unwrap()).unwrap()
}

/// Numbers that look random, the same each time.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x2545_F491_4F6C_DD1D);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
