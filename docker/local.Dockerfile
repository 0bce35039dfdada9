# The local cloud: an S3 server, Lambda functions and ECS tasks on one machine, with the programs of Buzz. docker/try.sh
# prepares the build folder with the programs, their C library and the sample, and builds the image.
FROM scratch
COPY root /
COPY programs /buzz
COPY sample /sample
COPY examples /examples
WORKDIR /tmp
WORKDIR /var/buzz
ENTRYPOINT ["/buzz/localcloud"]
