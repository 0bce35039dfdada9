//! Runs a task without files: a part of a reduce plan, over partitions of the deliveries of earlier stages.
//!
//! The deliveries are objects in storage. They are put into inboxes of the task's own, which read them by range.

use std::sync::Arc;
use std::time::Instant;

use buzz_exchange::{
    Commit, DeliveryHeader, InboxService, Inboxes, LeafCodec, ObjectPlace, OpenQuery, StageSpec, unread_stages,
};
use buzz_kernel::{decode_plan, guarded_joins, unpanicked_rows};
use buzz_protocol::{
    BUILD_ID, HBeeTask, QueryError, Result, Segment, StageInput, TaskIndex, TaskOutcome, milliseconds,
};

use crate::{HBee, evaluate};

impl HBee {
    /// Runs one attempt of a task that reads deliveries. Checks that it has read all of them.
    pub(crate) async fn reduce(&self, task: &HBeeTask) -> Result<TaskOutcome> {
        let started = Instant::now();
        let place = self.inputs_of(task)?;
        let inputs = open(task, &place).await?;
        let stores = self.stores.for_query();
        let ctx = self.task_context(task, Arc::clone(&stores), Some(Arc::clone(&inputs)))?;
        let decoded = decode_plan(&task.fragment, &ctx, &LeafCodec);
        let plan = decoded.map_err(|error| {
            QueryError::internal(format!("the part of a reduce plan of this task cannot be decoded: {error}"))
        })?;
        let unread = unread_stages(&plan);
        let plan = unpanicked_rows(guarded_joins(plan)?);
        let (mut writer, objects) = self.writer(task, plan.schema())?;
        let partitions = 0..plan.properties().partitioning.partition_count();
        evaluate(plan.as_ref(), partitions, &ctx, &mut writer).await?;
        inputs.check_read(task.query, unread).await?;
        let delivery = writer.finish().await?;
        Ok(TaskOutcome {
            delivery: delivery.delivery,
            delivered: delivery.delivered,
            rows: delivery.rows,
            bytes_delivered: delivery.bytes,
            rows_scanned: 0,
            bytes_scanned: 0,
            requests: place.requests() + objects.map(|objects| objects.requests()).unwrap_or_default(),
            milliseconds: milliseconds(started.elapsed()),
        })
    }

    /// Returns the place of the objects that `task` reads.
    fn inputs_of(&self, task: &HBeeTask) -> Result<ObjectPlace> {
        let root = task.objects.as_ref();
        let root =
            root.ok_or_else(|| QueryError::internal("a task that reads deliveries does not name their place"))?;
        ObjectPlace::parse(self.stores.for_stack(), root)
    }
}

/// Makes inboxes with the accepted deliveries that `task` reads.
async fn open(task: &HBeeTask, place: &ObjectPlace) -> Result<Arc<Inboxes>> {
    let inboxes = Arc::new(Inboxes::default());
    let open = OpenQuery {
        build: BUILD_ID.to_string(),
        query: task.query,
        token: task.token.clone(),
        deadline_ms: None,
        lease_ms: None,
        stages: task.inputs.iter().map(spec).collect::<Result<_>>()?,
        flowing: false,
        paced: false,
        ahead: true,
        memory_bytes: 0,
        disk_bytes: 0,
    };
    inboxes.open(open).await?;
    for input in &task.inputs {
        // Within this task, the deliveries have other numbers: those without rows of its partitions are left out.
        for (position, delivered) in (0..).zip(&input.deliveries) {
            let (stage, delivery) = (input.stage, delivered.delivery);
            let (build, position) = (BUILD_ID.to_string(), TaskIndex(position));
            let header = DeliveryHeader { build, query: task.query, stage, task: position, delivery };
            let object = place.object(stage, delivered.task, delivery)?;
            inboxes.hold_object(&header, &object, &delivered.segments)?;
            let rows = rows_of(input, &delivered.segments)?;
            inboxes.commit(task.query, vec![Commit { stage, task: position, delivery, rows }]).await?;
        }
    }
    Ok(inboxes)
}

/// Describes the share of the task's inboxes that has `input`.
fn spec(input: &StageInput) -> Result<StageSpec> {
    let tasks = u32::try_from(input.deliveries.len())
        .map_err(|_| QueryError::internal("a stage has more than 2^32 deliveries"))?;
    Ok(StageSpec {
        stage: input.stage,
        step: input.step.clone(),
        schema: input.schema.clone(),
        partitions: input.partitions.start as usize..input.partitions.end as usize,
        tasks,
        readers: input.readers,
    })
}

/// Returns the rows of `segments` by partition that the task reads of `input`.
fn rows_of(input: &StageInput, segments: &[Segment]) -> Result<Vec<u64>> {
    let mut rows = vec![0_u64; input.partitions.len()];
    for segment in segments {
        let place =
            segment.partition.checked_sub(input.partitions.start).and_then(|place| rows.get_mut(place as usize));
        let sum = place.ok_or_else(|| {
            QueryError::internal(format!(
                "partition {} of step `{}` is not for this task",
                segment.partition, input.step
            ))
        })?;
        *sum = sum.saturating_add(segment.rows);
    }
    Ok(rows)
}
