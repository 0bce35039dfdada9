# The local cloud: an S3 server, Lambda functions and ECS tasks on one machine, with Buzz's own programs. Built by
# docker/try.sh from a folder that it prepares: programs, the C library they are linked with, the sample.
FROM scratch
COPY root /
COPY programs /buzz
COPY sample /sample
COPY examples /examples
WORKDIR /tmp
WORKDIR /var/buzz
ENTRYPOINT ["/buzz/localcloud"]
