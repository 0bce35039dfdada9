# Who may talk to whom. Nothing comes in from outside: functions admit nobody, combs admit functions and other combs.

resource "aws_security_group" "functions" {
  name        = "${var.name}-functions"
  description = "Fuse and HBees: no way in"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-functions" }
}

resource "aws_security_group" "combs" {
  name        = "${var.name}-combs"
  description = "HCombs: reached by functions and other combs"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-combs" }
}

data "aws_ec2_managed_prefix_list" "s3" {
  name = "com.amazonaws.${var.region}.s3"
}

resource "aws_vpc_security_group_egress_rule" "functions_to_aws" {
  security_group_id = aws_security_group.functions.id
  description       = "AWS, over IPv6"
  cidr_ipv6         = "::/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "functions_to_s3" {
  security_group_id = aws_security_group.functions.id
  description       = "S3, over its gateway endpoint"
  prefix_list_id    = data.aws_ec2_managed_prefix_list.s3.id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "functions_to_combs" {
  security_group_id            = aws_security_group.functions.id
  description                  = "Deliveries and reduce plans"
  referenced_security_group_id = aws_security_group.combs.id
  ip_protocol                  = "tcp"
  from_port                    = var.comb_port
  to_port                      = var.comb_port
}

resource "aws_vpc_security_group_ingress_rule" "combs_from_functions" {
  security_group_id            = aws_security_group.combs.id
  description                  = "Deliveries and reduce plans"
  referenced_security_group_id = aws_security_group.functions.id
  ip_protocol                  = "tcp"
  from_port                    = var.comb_port
  to_port                      = var.comb_port
}

# The functions' interfaces are AWS's own. Should their IPv6 traffic not count as their group's, this lets it in.
resource "aws_vpc_security_group_ingress_rule" "combs_from_function_subnets" {
  count = var.zones

  security_group_id = aws_security_group.combs.id
  description       = "Functions, by their IPv6 range"
  cidr_ipv6         = aws_subnet.functions[count.index].ipv6_cidr_block
  ip_protocol       = "tcp"
  from_port         = var.comb_port
  to_port           = var.comb_port
}

resource "aws_vpc_security_group_ingress_rule" "combs_from_combs" {
  security_group_id            = aws_security_group.combs.id
  description                  = "Exchanges between combs"
  referenced_security_group_id = aws_security_group.combs.id
  ip_protocol                  = "tcp"
  from_port                    = var.comb_port
  to_port                      = var.comb_port
}

resource "aws_vpc_security_group_egress_rule" "combs_to_combs" {
  security_group_id            = aws_security_group.combs.id
  description                  = "Exchanges between combs"
  referenced_security_group_id = aws_security_group.combs.id
  ip_protocol                  = "tcp"
  from_port                    = var.comb_port
  to_port                      = var.comb_port
}

resource "aws_vpc_security_group_egress_rule" "combs_to_aws" {
  security_group_id = aws_security_group.combs.id
  description       = "AWS, over IPv6"
  cidr_ipv6         = "::/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "combs_to_aws_ipv4" {
  count = local.ipv6_only ? 0 : 1

  security_group_id = aws_security_group.combs.id
  description       = "The image, over IPv4"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
