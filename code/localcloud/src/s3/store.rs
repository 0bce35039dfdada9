//! Stores objects as files, with the semantics of S3.

use std::io;
use std::path::{Path, PathBuf};

use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::locks::Locks;
use super::preconditions::Preconditions;

/// A folder of buckets.
///
/// A writer holds an exclusive lock on its key, from the first check to the last byte. Therefore `If-Match` and
/// `If-None-Match` of writes are atomic, and an ETag always matches its bytes.
#[derive(Debug)]
pub(super) struct Store {
    files: FileSystem,
    folder: PathBuf,
    region: String,
    locks: Locks,
}

impl Store {
    pub(super) fn open(folder: &Path, region: &str) -> io::Result<Store> {
        let files = FileSystem::new(folder).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let (folder, region) = (folder.to_path_buf(), region.to_string());
        Ok(Store { files, folder, region, locks: Locks::default() })
    }

    /// Returns the size of an object in bytes.
    ///
    /// # Errors
    /// `NoSuchKey` if the key is missing or a folder of objects, `NoSuchBucket` if the bucket is missing.
    fn object_size(&self, bucket: &str, key: &str) -> S3Result<u64> {
        match std::fs::metadata(self.folder.join(bucket).join(key)) {
            Ok(found) if found.is_file() => Ok(found.len()),
            _ if self.folder.join(bucket).is_dir() => Err(s3_error!(NoSuchKey, "The specified key does not exist.")),
            _ => Err(s3_error!(NoSuchBucket, "The specified bucket does not exist")),
        }
    }
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn get_object(&self, mut req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let _reading = self.locks.read(&req.input.bucket, &req.input.key).await;
        let size = self.object_size(&req.input.bucket, &req.input.key)?;
        let preconditions = Preconditions {
            if_match: req.input.if_match.take(),
            if_none_match: req.input.if_none_match.take(),
            if_modified_since: req.input.if_modified_since.take(),
            if_unmodified_since: req.input.if_unmodified_since.take(),
        };
        // A suffix longer than the object is the whole object. `s3s-fs` would seek to a negative offset.
        if matches!(req.input.range, Some(Range::Suffix { length }) if length > size) {
            req.input.range = Some(Range::Int { first: 0, last: None });
        }
        let answer = self.files.get_object(req).await?;
        preconditions.check(answer.output.e_tag.as_ref(), answer.output.last_modified.as_ref())?;
        Ok(answer)
    }

    async fn head_object(&self, mut req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let _reading = self.locks.read(&req.input.bucket, &req.input.key).await;
        self.object_size(&req.input.bucket, &req.input.key)?;
        let preconditions = Preconditions {
            if_match: req.input.if_match.take(),
            if_none_match: req.input.if_none_match.take(),
            if_modified_since: req.input.if_modified_since.take(),
            if_unmodified_since: req.input.if_unmodified_since.take(),
        };
        let answer = self.files.head_object(req).await?;
        preconditions.check(answer.output.e_tag.as_ref(), answer.output.last_modified.as_ref())?;
        Ok(answer)
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let _writing = self.locks.write(&req.input.bucket, &req.input.key).await;
        if !self.folder.join(&req.input.bucket).is_dir() {
            return Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"));
        }
        self.files.put_object(req).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let _writing = self.locks.write(&req.input.bucket, &req.input.key).await;
        self.files.complete_multipart_upload(req).await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let _writing = self.locks.write(&req.input.bucket, &req.input.key).await;
        self.files.copy_object(req).await
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let _writing = self.locks.write(&req.input.bucket, &req.input.key).await;
        self.files.delete_object(req).await
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        let mut answer = self.files.head_bucket(req).await?;
        answer.output.bucket_region = Some(self.region.clone());
        Ok(answer)
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let mut answer = self.files.get_bucket_location(req).await?;
        answer.output.location_constraint = Some(BucketLocationConstraint::from(self.region.clone()));
        Ok(answer)
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.files.delete_objects(req).await
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.files.create_bucket(req).await
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.files.delete_bucket(req).await
    }

    async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        self.files.list_buckets(req).await
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        self.files.list_objects(req).await
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.files.list_objects_v2(req).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.files.create_multipart_upload(req).await
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        self.files.upload_part(req).await
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.files.upload_part_copy(req).await
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.files.list_parts(req).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.files.abort_multipart_upload(req).await
    }
}
